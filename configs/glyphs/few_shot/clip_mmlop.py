# 16 shots of each kind of thing; the test shows other objects of the kind.
# The rate was chosen on validation data with the same three trials: trials.json.
from mmengine.config import read_base

with read_base():
    from ..._base_.tuners.mmlop import *
    from .._base import *
    from ..._base_.datasets.glyphs_subgroups import *
    from ..._base_.protocols.few_shot import *

# The tiny CLIP has 3 text layers.
tuner.update(depth=3)
schedule.update(lr=0.002)
