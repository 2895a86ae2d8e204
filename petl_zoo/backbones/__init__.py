"""The frozen models: one transformer, and one file a backbone."""

from .base import Backbone, Stream
from .clip import CLIP
from .plan import NOTHING, Cursor, Plan, Rows, StreamPlan, Swap
from .text import TextBatch, Tokenizer, tokenize

__all__ = [
    "CLIP",
    "NOTHING",
    "Backbone",
    "Cursor",
    "Plan",
    "Rows",
    "Stream",
    "StreamPlan",
    "Swap",
    "TextBatch",
    "Tokenizer",
    "tokenize",
]
