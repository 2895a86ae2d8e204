# A bottleneck of width 64 in every layer of every stream, beside the feed-forward network.
tuner = dict(type="Adapter", rank=64)
