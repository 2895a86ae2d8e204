# Pretrains the tiny CLIP that ships, from nothing:  python tools/train.py configs/pretrain/clip_tiny.py
from mmengine.config import read_base

with read_base():
    from .._base_.backbones.clip_tiny import *
    from .._base_.datasets.glyph_pairs import *
    from .._base_.heads.classification import *
    from .._base_.protocols.pretraining import *
    from .._base_.runtime import *
    from .._base_.schedules.adamw import *
    from .._base_.tuners.full import *

backbone.update(checkpoint=None, tokenizer="zoo:clip_tiny")
head.update(label_smoothing=0.05)
# 460,800 images in epochs of 200 steps. At an equal number of images Muon names about twice as many concepts as AdamW.
schedule.update(
    epochs=18,
    batch_size=128,
    lr=3e-3,
    optimizer=dict(type="MuonAdamW", muon_lr=0.03, weight_decay=0.05, betas=(0.9, 0.98)),
    warmup=0.5,
    warmup_lr=1e-5,
    final_lr=0.0,
)
runtime.update(amp=True, log_interval=50)
