# UniAdapter, Lu et al. 2024, as the tables of DoPL's paper have it: 19,520,132 parameters on BLIP-base.
tuner = dict(type="UniAdapter", rank=512, official=True, official_init=True)
