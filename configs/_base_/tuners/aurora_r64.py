# Aurora, Wang et al. 2023, as the tables of DoPL's paper have it: 609,538 parameters on BLIP-base.
tuner = dict(type="Aurora", rank=64, official=True)
