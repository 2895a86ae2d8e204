# The third stage of the tiny BEiT-3 that ships, after beit3_tiny_relations.py: few objects a batch, so that scenes
# share some:  python tools/train.py configs/pretrain/beit3_tiny_ranking.py
from mmengine.config import read_base

with read_base():
    from .beit3_tiny import *
    from ._ranking import *

backbone.update(checkpoint="work_dirs/pretrain/beit3_tiny_relations/seed_1/epoch_12.pth")
head = dict(type="PretrainingHead", words="mlm", masked=0.5, portion=0.5, k_test=16)
dataset.update(objects=10)
