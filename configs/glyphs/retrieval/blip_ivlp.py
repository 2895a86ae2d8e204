from mmengine.config import read_base

with read_base():
    from ..._base_.backbones.blip_tiny import *
    from ..._base_.tuners.ivlp import *
    from ._base import *

# Three text layers are the most that all four have; all have six vision layers.
tuner.update(depth=3, vision_depth=6)
schedule.update(lr=0.016)
