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
schedule.update(epochs=60, batch_size=128, lr=1.5e-3)
runtime.update(log_interval=50)
