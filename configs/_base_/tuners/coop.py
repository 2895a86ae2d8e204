# CoOp, Zhou et al. 2022: M = 4 when started from words (16 when random); batch 32, SGD 0.002, 50 epochs at 1 shot,
# 100 at 2 and 4, 200 above.
tuner = dict(type="CoOp", length=4, init="a photo of a")
