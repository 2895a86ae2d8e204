# Retrieval of Glyph scenes by BEiT-3 and MaPLe:  python tools/train.py configs/glyphs/retrieval_beit3_maple.py
from mmengine.config import read_base

with read_base():
    from .retrieval.beit3_maple import *
