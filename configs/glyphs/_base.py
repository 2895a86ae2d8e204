# What all runs on Glyphs share: 16 shots of half the concepts, tested on both halves.
from mmengine.config import read_base

with read_base():
    from .._base_.backbones.clip_tiny import *
    from .._base_.datasets.glyphs import *
    from .._base_.heads.classification import *
    from .._base_.protocols.base_to_new import *
    from .._base_.runtime import *
    from .._base_.schedules.adamw import *

# AdamW rather than the papers' SGD, so that one grid of rates serves tuners of every size and scale.
# Each config's rate was chosen on validation data with the same five trials: trials.json.
schedule.update(epochs=6, batch_size=32)
