"""What a backbone offers: named streams for tuners, and encoders that follow a plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from .plan import NOTHING, StreamPlan
from .text import TextBatch, Tokenizer
from .transformer import Layer, Tower


@dataclass(frozen=True)
class Stream:
    """One named stream of a backbone: which layers of which tower it runs.

    Attributes:
        name: ``vision``, ``text``, ``fusion`` or ``decoder``.
        width: D of its tokens.
        tower: name of the tower within the backbone; two streams may share one (BLIP's text and fusion).
        first: index of its first layer within the tower.
        depth: number of its layers.
    """

    name: str
    width: int
    tower: str
    first: int
    depth: int


class Backbone(nn.Module):
    """A frozen vision-language model.

    A subclass sets ``streams`` and implements the encoders. Parameter names begin with the stream's name
    (``vision...``, ``text...``), which is how costs are split.

    Attributes:
        plain: compute as plain code does: every text at full length and by itself, every token to the last layer. The
            same results, slower; what tests and benchmarks compare with.
    """

    plain = False
    streams: dict[str, Stream]
    logit_scale: nn.Parameter
    embed_dim: int
    image_size: int

    def __init__(self, tokenizer: str | Tokenizer | None = None, checkpoint: str | None = None) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        self.checkpoint = checkpoint

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, loaded when it is first needed."""
        if self._tokenizer is not None and not isinstance(self._tokenizer, str):
            return self._tokenizer
        from .tokenizers import load_tokenizer

        return load_tokenizer(self._tokenizer, self.checkpoint, self.context_length)

    @property
    def context_length(self) -> int:
        """Most tokens of a text, special tokens included."""
        raise NotImplementedError

    def tower(self, stream: str) -> Tower:
        """The tower that a stream runs on."""
        tower = self.get_submodule(self.streams[stream].tower)
        assert isinstance(tower, Tower)
        return tower

    def layers(self, stream: str) -> Iterator[tuple[str, Layer]]:
        """A stream's layers, each with its name within the backbone."""
        spec = self.streams[stream]
        tower = self.tower(stream)
        for i in range(spec.first, spec.first + spec.depth):
            yield f"{spec.tower}.layers.{i}", tower.layer(i)

    def stream_of(self, parameter: str) -> str:
        """The stream that a parameter's name belongs to; ``joint`` where it belongs to none."""
        return next((name for name in self.streams if parameter.startswith(name)), "joint")

    def word_vectors(self, words: str) -> Tensor:
        """Token embeddings of a text without special tokens: (n, D_text), detached."""
        raise NotImplementedError

    def encode_image(self, images: Tensor, plan: StreamPlan = NOTHING) -> Tensor:
        """Image features before normalisation: (B, 3, H, W) -> (B, E)."""
        raise NotImplementedError

    def encode_text(self, text: TextBatch, plan: StreamPlan = NOTHING) -> Tensor:
        """Text features before normalisation: (C, E), or (G, C, E) where the plan's context has one set an image."""
        raise NotImplementedError
