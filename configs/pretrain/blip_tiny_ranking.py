# The fourth stage of the tiny BLIP that ships, after blip_tiny_relations.py: few objects a batch, so that scenes
# share some, and harder negatives, as re-ranking meets them.
from mmengine.config import read_base

with read_base():
    from .blip_tiny import *
    from ._ranking import *

backbone.update(checkpoint="work_dirs/pretrain/blip_tiny_relations/seed_1/epoch_12.pth")
head = dict(
    type="PretrainingHead",
    words="lm",
    hardness=0.7,
    k_test=16,
)
