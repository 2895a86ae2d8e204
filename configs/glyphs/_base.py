# What all runs on Glyphs share: 16 shots of half the concepts, tested on both halves.
from mmengine.config import read_base

with read_base():
    from .._base_.backbones.clip_tiny import *
    from .._base_.datasets.glyphs import *
    from .._base_.heads.classification import *
    from .._base_.protocols.base_to_new import *
    from .._base_.runtime import *
    from .._base_.schedules.adamw import *

# AdamW rather than the papers' SGD: one grid of rates then holds the best rate of every tuner, as the rates' scale depends
# less on the size of a tuner's parameters. Each config's rate was chosen on validation data: trials.json.
schedule.update(epochs=6, batch_size=32)
