from mmengine.config import read_base

with read_base():
    from .._base_.tuners.vpt import *
    from ._base import *

# The tiny CLIP has 6 vision and 3 text layers.
tuner.update(depth=6)
schedule.update(lr=0.008)
