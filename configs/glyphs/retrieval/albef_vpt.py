from mmengine.config import read_base

with read_base():
    from ..._base_.backbones.albef_tiny import *
    from ..._base_.tuners.vpt import *
    from ._base import *

tuner.update(depth=6)
schedule.update(lr=0.004)
