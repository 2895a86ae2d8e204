# LoRA, Hu et al. 2022: r = 4 on query and value, as its section 5; both towers.
tuner = dict(type="LoRA", rank=4, targets=["attn.q", "attn.v"])
