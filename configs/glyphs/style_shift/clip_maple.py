# 16 shots of each concept in one artist's style, tested in that style and in four others.
# The rate is base-to-new's, whose validation set has the same concepts, shots and style.
from mmengine.config import read_base

with read_base():
    from ..._base_.tuners.maple import *
    from .._base import *
    from ..._base_.protocols.style_shift import *

# The tiny CLIP has 3 text layers.
tuner.update(depth=3)
schedule.update(lr=0.128)
