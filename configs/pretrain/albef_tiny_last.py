# The last stage of the tiny ALBEF that ships, after albef_tiny_hard.py: still fewer objects a batch, so that negatives
# are as near as the candidates that re-ranking meets:  python tools/train.py configs/pretrain/albef_tiny_last.py
from mmengine.config import read_base

with read_base():
    from .albef_tiny_hard import *

backbone.update(checkpoint="work_dirs/pretrain/albef_tiny_hard/seed_1/epoch_4.pth")
dataset.update(objects=10)
schedule.update(epochs=8)
