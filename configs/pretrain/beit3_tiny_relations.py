# The second stage of the tiny BEiT-3 that ships, after beit3_tiny.py: lessons about sides, then scenes that differ from
# their twins in nothing else. It was run from the first stage's weights in half precision:
#   python tools/train.py configs/pretrain/beit3_tiny_relations.py
from mmengine.config import read_base

with read_base():
    from .beit3_tiny import *
    from ._relations import *

backbone.update(checkpoint="work_dirs/pretrain/beit3_tiny/seed_1/epoch_6.pth")
head = dict(type="PretrainingHead", words="mlm", masked=0.5, portion=0.5, tilt=0.5, k_test=16)
