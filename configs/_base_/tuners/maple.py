# MaPLe, Khattak et al. 2023, base-to-new: batch 4, SGD 0.0035, 5 epochs; across data sets depth 3, SGD 0.0026, 2
# epochs.
tuner = dict(type="MaPLe", length=2, depth=9, init="a photo of a")
