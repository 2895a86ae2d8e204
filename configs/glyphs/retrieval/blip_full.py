from mmengine.config import read_base

with read_base():
    from ..._base_.backbones.blip_tiny import *
    from ..._base_.tuners.full import *
    from ._base import *

schedule.update(lr=0.001)
