# MaPLe as in DoPL's tables: 8 prompts in 9 layers, 5.4M on BLIP.
tuner = dict(type="MaPLe", length=8, depth=9, init=None)
