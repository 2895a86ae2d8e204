"""Data sets, the protocols that split them, and the embedded Glyphs."""

from __future__ import annotations

from .captions import Captioned, CaptionItem, CaptionPairs, Gallery, GalleryImages
from .classes import ClassNames
from .classification import Images, Item, Labelled, SplitZhou
from .collate import collate
from .glyphs.dataset import Glyphs
from .glyphs.pairs import GlyphPairs
from .glyphs.scene_pairs import ScenePairs
from .glyphs.scenes import GlyphScenes
from .protocols import BaseToNew, FewShot, Parts, Pretraining, Protocol, Retrieval, ScenePretraining, StyleShift
from .retrieval import KarpathyCaptions

__all__ = [
    "BaseToNew",
    "CaptionItem",
    "CaptionPairs",
    "Captioned",
    "ClassNames",
    "FewShot",
    "Gallery",
    "GalleryImages",
    "GlyphPairs",
    "GlyphScenes",
    "Glyphs",
    "Images",
    "Item",
    "KarpathyCaptions",
    "Labelled",
    "Parts",
    "Pretraining",
    "Protocol",
    "Retrieval",
    "ScenePairs",
    "ScenePretraining",
    "SplitZhou",
    "StyleShift",
    "collate",
]
