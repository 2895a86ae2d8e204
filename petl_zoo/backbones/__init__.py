"""The frozen models: one transformer, and one file a backbone."""

from .albef import ALBEF
from .base import Backbone, Context, States, Stream
from .beit3 import BEiT3
from .blip import BLIP
from .clip import CLIP
from .plan import NOTHING, Cursor, Plan, Rows, StreamPlan, Swap
from .text import TextBatch, Tokenizer, caption_template, tokenize, tokenize_captions

__all__ = [
    "ALBEF",
    "BLIP",
    "CLIP",
    "NOTHING",
    "BEiT3",
    "Backbone",
    "Context",
    "Cursor",
    "Plan",
    "Rows",
    "States",
    "Stream",
    "StreamPlan",
    "Swap",
    "TextBatch",
    "Tokenizer",
    "caption_template",
    "tokenize",
    "tokenize_captions",
]
