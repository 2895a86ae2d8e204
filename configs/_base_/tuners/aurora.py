# Aurora, Wang et al. 2023, at its code's default rank; Flickr30K: AdamW 1e-4, 4 epochs; COCO: 1e-5, 6 epochs.
tuner = dict(type="Aurora", rank=32)
