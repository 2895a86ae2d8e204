# The second stage of the tiny ALBEF that ships, after albef_tiny.py: scenes that come with their twin, and ITM's negatives as
# hard as the papers draw them.  python tools/train.py configs/pretrain/albef_tiny_matching.py
from mmengine.config import read_base

with read_base():
    from .albef_tiny import *

backbone.update(checkpoint="work_dirs/pretrain/albef_tiny/seed_1/epoch_8.pth", tokenizer="zoo:albef_tiny", mlm=True, dropout=0.0)
head = dict(
    type="PretrainingHead",
    words="mlm",
    masked=0.3,
    k_test=16,
)
dataset.update(single_share=0.1, twin_share=1.0, ramp=0.0)
schedule.update(
    epochs=3,
    lr=1.5e-3,
    optimizer=dict(type="MuonAdamW", muon_lr=0.015, weight_decay=0.05, betas=(0.9, 0.98)),
)
