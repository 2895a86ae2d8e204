# Retrieval of Glyph scenes by CLIP and MaPLe:  python tools/train.py configs/glyphs/retrieval_clip_maple.py
from mmengine.config import read_base

with read_base():
    from .retrieval.clip_maple import *
