# Retrieval of Glyph scenes by BLIP and MaPLe:  python tools/train.py configs/glyphs/retrieval_blip_maple.py
from mmengine.config import read_base

with read_base():
    from .retrieval.blip_maple import *
