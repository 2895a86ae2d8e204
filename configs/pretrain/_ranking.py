# Data and schedule of the stages whose scenes share objects; imported after the first stage, whose own they replace.
from mmengine.config import read_base

with read_base():
    from .._base_.datasets.scene_pairs import *
    from .._base_.schedules.adamw import *

dataset.update(length=6400, single_share=0.1, twin_share=0.4, objects=24, ramp=0.0)
schedule.update(
    epochs=7,
    batch_size=64,
    lr=5e-4,
    optimizer=dict(type="MuonAdamW", muon_lr=0.005, weight_decay=0.05, betas=(0.9, 0.98)),
    warmup=0.5,
    warmup_lr=1e-5,
    final_lr=0.0,
)
