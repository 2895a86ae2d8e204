# Full fine-tuning.
tuner = dict(type="FullFineTuning")
