# Retrieval of Glyph scenes by ALBEF and MaPLe:  python tools/train.py configs/glyphs/retrieval_albef_maple.py
from mmengine.config import read_base

with read_base():
    from .retrieval.albef_maple import *
