# The second stage of the tiny ALBEF that ships, after albef_tiny.py: scenes that share objects or have their twin
# beside them, and harder negatives:  python tools/train.py configs/pretrain/albef_tiny_matching.py
from mmengine.config import read_base

with read_base():
    from .albef_tiny import *

# The decoder, the heads and dropout are those of the first stage.
backbone.update(checkpoint="work_dirs/pretrain/albef_tiny/seed_1/epoch_8.pth")
head = dict(
    type="PretrainingHead",
    words="mlm",
    masked=0.3,
    hardness=0.5,
    k_test=16,
)
dataset.update(single_share=0.1, twin_share=0.7, objects=40, ramp=0.0)
schedule.update(
    epochs=3,
    lr=1e-3,
    optimizer=dict(type="MuonAdamW", muon_lr=0.01, weight_decay=0.05, betas=(0.9, 0.98)),
)
