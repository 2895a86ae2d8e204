# 16 shots of each concept in one artist's style, tested in that style and in four others.
from mmengine.config import read_base

with read_base():
    from ..._base_.tuners.none import *
    from .._base import *
    from ..._base_.protocols.style_shift import *
