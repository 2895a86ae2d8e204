# The third stage of the tiny ALBEF that ships, after albef_tiny_matching.py: lessons about sides, then scenes that
# differ from their twins in nothing else. It was run from the second stage's weights in half precision, as shipped:
#   python tools/train.py configs/pretrain/albef_tiny_relations.py
from mmengine.config import read_base

with read_base():
    from .albef_tiny import *
    from ._relations import *

backbone.update(checkpoint="work_dirs/pretrain/albef_tiny_matching/seed_1/epoch_3.pth")
head = dict(
    type="PretrainingHead",
    words="mlm",
    masked=0.3,
    hardness=0.5,
    tilt=0.5,
    k_test=16,
)
