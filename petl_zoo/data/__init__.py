"""Data sets, the protocols that split them, and the embedded Glyphs."""

from __future__ import annotations

from .classes import ClassNames
from .classification import Images, Item, Labelled, SplitZhou
from .collate import collate
from .glyphs.dataset import Glyphs
from .glyphs.pairs import GlyphPairs
from .protocols import BaseToNew, FewShot, Parts, Pretraining, Protocol, StyleShift

__all__ = [
    "BaseToNew",
    "ClassNames",
    "FewShot",
    "GlyphPairs",
    "Glyphs",
    "Images",
    "Item",
    "Labelled",
    "Parts",
    "Pretraining",
    "Protocol",
    "SplitZhou",
    "StyleShift",
    "collate",
]
