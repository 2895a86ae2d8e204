# CoCoOp, Zhou et al. 2022: batch 1, SGD 0.002, 10 epochs.
tuner = dict(type="CoCoOp", length=4, init="a photo of a")
