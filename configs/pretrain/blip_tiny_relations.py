# The third stage of the tiny BLIP that ships, after blip_tiny_matching.py: lessons about sides, then scenes that
# differ from their twins in nothing else. It was run from the second stage's weights in half precision, as shipped:
#   python tools/train.py configs/pretrain/blip_tiny_relations.py
from mmengine.config import read_base

with read_base():
    from .blip_tiny import *
    from ._relations import *

backbone.update(checkpoint="work_dirs/pretrain/blip_tiny_matching/seed_1/epoch_3.pth")
head = dict(
    type="PretrainingHead",
    words="lm",
    hardness=0.5,
    tilt=0.5,
    k_test=16,
)
