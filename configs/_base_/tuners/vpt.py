# VPT-deep as the baseline of MaPLe: batch 4, SGD 0.0025, 5 epochs.
tuner = dict(type="VPT", length=8, depth=12)
