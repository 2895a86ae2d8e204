# UniAdapter, Lu et al. 2024, at the smaller of its widths: batch 256, AdamW 1e-5, weight decay 0.05, 6 epochs.
tuner = dict(type="UniAdapter", rank=128)
