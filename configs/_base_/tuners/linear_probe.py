# A linear classifier on image features, started from the text features.
tuner = dict(type="LinearProbe", init="text")
