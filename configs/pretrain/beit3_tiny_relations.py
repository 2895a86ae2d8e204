# The second stage of the tiny BEiT-3 that ships, after beit3_tiny.py: lessons about sides, then scenes that differ from
# their twins in nothing else. It was run from the first stage's weights in half precision:
#   python tools/train.py configs/pretrain/beit3_tiny_relations.py
from mmengine.config import read_base

with read_base():
    from .beit3_tiny import *

backbone.update(checkpoint="work_dirs/pretrain/beit3_tiny/seed_1/epoch_6.pth")
head = dict(type="PretrainingHead", words="mlm", masked=0.5, portion=0.5, tilt=0.5, k_test=16)
dataset.update(length=6400, sides=0.6, single_share=0.2, twin_share=0.9, ramp=0.0)
# Twice the rate drowns the sides in noise.
schedule.update(
    epochs=12,
    batch_size=64,
    lr=6e-4,
    optimizer=dict(type="MuonAdamW", muon_lr=0.006, weight_decay=0.05, betas=(0.9, 0.98)),
)
