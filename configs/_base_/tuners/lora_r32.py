# LoRA as in DoPL's tables: rank 32 on every Linear of ViT and BERT but cross-attention, 10.6M on BLIP.
tuner = dict(type="LoRA", rank=32, targets=["attn.q", "attn.k", "attn.v", "attn.out", "fc1", "fc2"])
