"""What a prompt method hands to the towers: a plan. Tensors only; no knowledge of attention, and none of a backbone.

A stream's plan says three things: which context vectors join the embeddings, which tokens enter and leave before which
layer, and which rows are put in front of which layer's keys and values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Keys and values. As a plan gives them: (P, D) or (B, P, D); within an attention: (B, h, P, d)."""

    key: Tensor
    value: Tensor

    def __len__(self) -> int:
        return self.key.shape[-2]

    def after(self, front: Rows) -> Rows:
        """These rows with ``front`` before them, in their dtype; a single row of a batch is spread over it."""
        return Rows(_cat(front.key, self.key), _cat(front.value, self.value))

    def repeat(self, times: int) -> Rows:
        """Each batch row ``times`` times in a row, no copy where the batch is one: (B, ...) -> (B times, ...)."""

        def spread(t: Tensor) -> Tensor:
            wide = t[:, None].expand(-1, times, *t.shape[1:])
            return wide.flatten(0, 1) if len(t) > 1 else wide[0]

        return Rows(spread(self.key), spread(self.value))


def _cat(first: Tensor, second: Tensor) -> Tensor:
    if len(first) != len(second) and first.dim() == second.dim() == 4:
        first = first.expand(len(second), *first.shape[1:])
    return torch.cat([first.to(second.dtype), second], dim=-2)


@dataclass(frozen=True)
class Swap:
    """Tokens that leave and enter before a layer.

    Attributes:
        add: the tokens that enter, (m, D), or (B, m, D) with one set for each sequence.
        drop: how many tokens right before the cursor leave.
    """

    add: Tensor
    drop: int = 0

    @property
    def grown(self) -> int:
        """By how many tokens the sequence grows."""
        return self.add.shape[-2] - self.drop


@dataclass
class Cursor:
    """The position right behind a stream's prompt tokens, where a swap takes place; it moves as they grow."""

    position: int

    def swap(self, x: Tensor, padding: Tensor | None, swap: Swap) -> tuple[Tensor, Tensor | None]:
        """Drop and add tokens at the cursor.

        Shape:
            x: (B, N, D) -> (B, N - drop + m, D); padding: (B, N), True at real tokens, follows.

        Raises:
            ValueError: more tokens are dropped than stand before the cursor.
        """
        start, end = self.position - swap.drop, self.position
        if start < 0:
            raise ValueError(f"drop ({swap.drop}) is more than the {end} tokens in front of the cursor")
        add = swap.add.to(x.dtype)
        add = add.expand(len(x), *add.shape[-2:])
        self.position = start + add.shape[1]
        if padding is not None:
            real = padding.new_ones(len(x), add.shape[1])
            padding = torch.cat([padding[:, :start], real, padding[:, end:]], dim=1)
        return torch.cat([x[:, :start], add, x[:, end:]], dim=1), padding


@dataclass(frozen=True)
class StreamPlan:
    """A prompt method's wishes for one stream.

    Attributes:
        context: vectors that join the embeddings. Text: they take the places of the template's ``[V]`` slots, (n, D)
            for all classes, (C, n, D) for each class, or (G, 1, n, D) for each image. Vision: tokens that are put
            behind the patches after the positions were added, (n, D) or (B, n, D).
        swaps: tokens that leave and enter before a layer, by the layer's index within the stream.
        rows: rows in front of a layer's self-attention keys and values, by the same index.
        cross_rows: the same for cross-attention.
    """

    context: Tensor | None = None
    swaps: Mapping[int, Swap] = field(default_factory=dict)
    rows: Mapping[int, Rows] = field(default_factory=dict)
    cross_rows: Mapping[int, Rows] = field(default_factory=dict)


NOTHING = StreamPlan()


@dataclass(frozen=True)
class Plan:
    """A prompt method's wishes for every stream it touches, by the stream's name."""

    streams: Mapping[str, StreamPlan] = field(default_factory=dict)

    def of(self, stream: str) -> StreamPlan:
        """The plan of one stream; an empty one where the method does not touch it."""
        return self.streams.get(stream, NOTHING)
