"""Task heads. Importing this package registers them all."""

from .base import Head
from .classification import ClassificationHead

__all__ = ["ClassificationHead", "Head"]
