# IVLP as the baseline of MaPLe: batch 4, SGD 0.0035, 5 epochs.
tuner = dict(type="IVLP", length=2, depth=12, init="a photo of a")
