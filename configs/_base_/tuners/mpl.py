# MPL, Huang et al. 2025, base-to-new: batch 4, SGD 0.0035, 5 epochs; across data sets depth 3, SGD 0.0026, 2 epochs.
tuner = dict(type="MPL", length=1, depth=9, add=2, remove=1)
