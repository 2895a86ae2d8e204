# Pretrains the tiny BEiT-3 that ships:  python tools/train.py configs/pretrain/beit3_tiny.py
from mmengine.config import read_base

with read_base():
    from .._base_.backbones.beit3_tiny import *
    from .._base_.datasets.scene_pairs import *
    from .._base_.protocols.scene_pretraining import *
    from .._base_.runtime import *
    from .._base_.schedules.adamw import *
    from .._base_.tuners.full import *

backbone.update(checkpoint=None, tokenizer="zoo:beit3_tiny")
head = dict(type="PretrainingHead", words="mlm", masked=0.5, portion=0.5, k_test=16, vision_from="zoo:clip_tiny")
dataset.update(length=12800, single_share=0.3)
# Epochs of 100 steps.
schedule.update(
    epochs=6,
    batch_size=128,
    lr=3e-3,
    optimizer=dict(type="MuonAdamW", muon_lr=0.03, weight_decay=0.05, betas=(0.9, 0.98)),
    warmup=0.5,
    warmup_lr=1e-5,
    final_lr=0.0,
)
runtime.update(amp=True, log_interval=25)
