# Zero-shot: nothing is trained.
tuner = dict(type="NoTuner")
