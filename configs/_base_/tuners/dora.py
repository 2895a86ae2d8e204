# DoRA, Liu et al. 2024: as LoRA's file, with a magnitude for each output.
tuner = dict(type="DoRA", rank=4, targets=["attn.q", "attn.v"])
