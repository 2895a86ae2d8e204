"""Task heads. Importing this package registers them all."""

from .base import Head
from .classification import ClassificationHead
from .pretraining import PretrainingHead
from .retrieval import RetrievalHead

__all__ = ["ClassificationHead", "Head", "PretrainingHead", "RetrievalHead"]
