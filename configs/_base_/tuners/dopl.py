# DoPL, ACL 2025, section 4.1: 8 prompts in the first 9 of 12 layers of each stream, AdamW, weight decay 0.05, on BLIP.
tuner = dict(type="DoPL", length=8, source_dim=11)
