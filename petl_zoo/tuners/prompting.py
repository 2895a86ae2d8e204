"""What prompt tuners share: initial context vectors, the template around them, and the check of a depth."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from petl_zoo.backbones import Backbone, Swap
from petl_zoo.backbones.text import SLOT

INIT_STD = 0.02  # Standard deviation of random prompts in CoOp, VPT, IVLP, MaPLe and MPL.


def random_prompt(length: int, width: int, like: torch.Tensor) -> nn.Parameter:
    """A prompt from N(0, 0.02^2): (length, width), on the device and in the dtype of ``like``."""
    return nn.Parameter(torch.empty(length, width, device=like.device, dtype=like.dtype).normal_(std=INIT_STD))


def linear(width_in: int, width_out: int, like: torch.Tensor) -> nn.Linear:
    """A Linear with PyTorch's own initialisation, on the device and in the dtype of ``like``."""
    return nn.Linear(width_in, width_out, device=like.device, dtype=like.dtype)


@torch.no_grad()
def equal_linears(count: int, width_in: int, width_out: int, like: torch.Tensor) -> list[nn.Linear]:
    """Linears that start equal: MaPLe's and MPL's code makes one and copies it."""
    layers = [linear(width_in, width_out, like) for _ in range(count)]
    for layer in layers[1:]:
        for own, first in zip(layer.parameters(), layers[0].parameters(), strict=True):
            own.copy_(first)
    return layers


def text_context(backbone: Backbone, length: int, words: str | None) -> tuple[nn.Parameter, str]:
    """The first text prompt and the template around it.

    With ``words`` of at least ``length`` words, the first of them are replaced by vectors that start at their
    embeddings and the rest stay: 2 vectors and ``a photo of a`` give ``[V] [V] of a {}.``, as in IVLP and MaPLe. Else
    the vectors are random: ``[V] ... [V] {}.``.

    Shape:
        the prompt is (length, D_text).

    Raises:
        ValueError: a word is not one token, so that words and vectors do not match.
    """
    weight = backbone.like
    names = (words or "").split()
    if length <= len(names):
        vectors = backbone.word_vectors(" ".join(names))
        if len(vectors) != len(names):
            raise ValueError(
                f"init ({words!r}) must be words of one token each, but its {len(names)} words are "
                f"{len(vectors)} tokens"
            )
        return nn.Parameter(vectors[:length]), " ".join([SLOT] * length + names[length:] + ["{}."])
    return random_prompt(length, backbone.streams["text"].width, weight), " ".join([SLOT] * length + ["{}."])


def replacing(prompts: Iterable[torch.Tensor]) -> dict[int, Swap]:
    """Swaps in which each prompt but the first replaces the one before it, before the layer of its index."""
    return {i: Swap(prompt, drop=len(prompt)) for i, prompt in enumerate(prompts) if i > 0}


def check_positive(**values: int) -> None:
    """Raise a ValueError for the first value below 1."""
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} ({value}) must be at least 1")


def check_depth(backbone: Backbone, stream: str, depth: int, name: str = "depth") -> None:
    """Raise a ValueError if a stream has fewer layers than are to be prompted."""
    layers = backbone.streams[stream].depth
    if depth > layers:
        raise ValueError(f"{name} ({depth}) is more than the {stream} stream's {layers} layers: use 1 to {layers}")
