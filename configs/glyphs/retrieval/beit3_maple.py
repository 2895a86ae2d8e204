from mmengine.config import read_base

with read_base():
    from ..._base_.backbones.beit3_tiny import *
    from ..._base_.tuners.maple import *
    from ._base import *

# Three text layers are the most that all four have.
tuner.update(depth=3)
schedule.update(lr=0.004)
