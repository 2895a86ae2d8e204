"""From class names and a template to token ids: where the prompt's slots are, where it ends, what all classes share.

A template is a format string; ``{}`` is the class name and every ``[V]`` is one slot that a tuner's context vector
takes: ``"[V] [V] of a {}."`` is MaPLe's, ``"a photo of a {}."`` has no slot.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Protocol

import torch
from torch import Tensor

SLOT = "[V]"


class Tokenizer(Protocol):
    """What the project asks of a tokenizer. Ids only; special tokens are put in place by ``tokenize``."""

    start: int
    end: int
    pad: int
    context_length: int

    def encode(self, text: str) -> list[int]:
        """The ids of a text without special tokens."""


@dataclass(frozen=True)
class TextBatch:
    """Token ids of C texts, cut behind the last end token.

    Attributes:
        ids: (C, L); behind a text's end token stands the tokenizer's pad.
        slots: (C, n), ascending positions of the context's slots.
        end: (C,), position of each text's end token.
        shared: number of leading tokens that are equal in all texts and before every end token.
        shared_slots: how many of the n slots lie within the shared tokens.
        total: number of tokens of all texts, the pad apart.
        leading: whether every text's slots stand right behind its start token.
    """

    ids: Tensor
    slots: Tensor
    end: Tensor
    shared: int
    shared_slots: int
    total: int
    leading: bool = True

    def to(self, device: torch.device) -> TextBatch:
        """This batch on another device; itself if it is there already."""
        if self.ids.device == device:
            return self
        return replace(self, ids=self.ids.to(device), slots=self.slots.to(device), end=self.end.to(device))

    def padded(self, length: int, pad: int) -> TextBatch:
        """This batch at a fixed length, with nothing shared: what plain code computes; for tests and benchmarks."""
        ids = self.ids.new_full((len(self.ids), length), pad)
        ids[:, : self.ids.shape[1]] = self.ids
        return replace(self, ids=ids, shared=0, shared_slots=0)


def tokenize(tokenizer: Tokenizer, template: str, names: Sequence[str]) -> TextBatch:
    """Tokenise a template for every class name.

    Args:
        template: format string with one ``{}`` and any number of ``[V]`` slots.
        names: class names; underscores are read as blanks, as everywhere in the field.

    Raises:
        ValueError: no names, a template without ``{}``, or a text longer than the tokenizer's context; the message
            names it.
    """
    if not names:
        raise ValueError("there are no class names to tokenise")
    if template.count("{}") != 1 or template.replace("{}", "").count("{"):
        raise ValueError(
            f"the template {template!r} must have one '{{}}', the place of the class name, and no other brace"
        )
    rows, slot_rows = [], []
    for name in names:
        row, slots = [tokenizer.start], []
        text = template.format(name.replace("_", " "))
        for piece in re.split(r"(\[V\])", text):
            if piece == SLOT:
                slots.append(len(row))
                row.append(tokenizer.pad)
            elif piece.strip():
                row.extend(tokenizer.encode(piece.strip()))
        row.append(tokenizer.end)
        if len(row) > tokenizer.context_length:
            raise ValueError(
                f"the prompt {text!r} has {len(row)} tokens, but the text tower reads at most "
                f"{tokenizer.context_length}: shorten the template, the number of context tokens or the class name"
            )
        rows.append(row)
        slot_rows.append(slots)

    length = max(map(len, rows))
    ids = torch.tensor([row + [tokenizer.pad] * (length - len(row)) for row in rows])
    end = torch.tensor([len(row) - 1 for row in rows])
    marked = [
        [(token, i in slots) for i, token in enumerate(row[:-1])] for row, slots in zip(rows, slot_rows, strict=True)
    ]
    shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*marked, strict=False)))
    shared_slots = sum(slot < shared for slot in slot_rows[0])
    leading = all(slots == list(range(1, len(slots) + 1)) for slots in slot_rows)
    slots_at = torch.tensor(slot_rows, dtype=torch.long)
    return TextBatch(ids, slots_at, end, shared, shared_slots, sum(map(len, rows)), leading)
