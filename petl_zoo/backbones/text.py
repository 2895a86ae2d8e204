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
    """What the project asks of a tokenizer. Ids only; special tokens are put in place by ``tokenize``.

    ``end`` is None where texts have no closing token (ALBEF).
    """

    start: int
    end: int | None
    pad: int
    context_length: int

    def encode(self, text: str) -> list[int]:
        """The ids of a text without special tokens."""

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of several texts, which some tokenizers find faster together."""
        return [self.encode(text) for text in texts]


class FusionTokenizer(Tokenizer, Protocol):
    """What fused backbones ask beyond it: start tokens of fused texts and of written ones, and the mask."""

    enc: int
    dec: int
    mask: int


@dataclass(frozen=True)
class TextBatch:
    """Token ids of C texts, cut behind the last end token.

    Attributes:
        ids: (C, L); behind a text's end token stands the tokenizer's pad.
        slots: (C, n), ascending positions of the context's slots.
        end: (C,), position of each text's end token; of its last one where the tokenizer has no end token.
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

    def __len__(self) -> int:
        return len(self.end)

    @property
    def padding(self) -> Tensor | None:
        """(C, L), True at real tokens; None where all texts are equally long."""
        count, length = self.ids.shape
        if self.total == count * length:
            return None
        return torch.arange(length, device=self.ids.device) <= self.end[:, None]

    def take(self, index: Tensor) -> TextBatch:
        """The texts at the places ``index``, (P,), which may repeat."""
        end = self.end[index]
        total = int((end + 1).sum())
        return replace(self, ids=self.ids[index], slots=self.slots[index], end=end, total=total)

    def trimmed(self) -> TextBatch:
        """These texts without columns in which all have ended."""
        length = int(self.end.max()) + 1
        return self if length == self.ids.shape[1] else replace(self, ids=self.ids[:, :length])

    def starting(self, token: int) -> TextBatch:
        """These texts with another start token."""
        ids = self.ids.clone()
        ids[:, 0] = token
        return replace(self, ids=ids)

    def replaced(self, ids: Tensor) -> TextBatch:
        """Texts of the same shape with other words; nothing is shared any more."""
        return replace(self, ids=ids, shared=0, shared_slots=0)

    def to(self, device: torch.device) -> TextBatch:
        """This batch on another device; itself if it is there already."""
        if self.ids.device == device:
            return self
        return replace(self, ids=self.ids.to(device), slots=self.slots.to(device), end=self.end.to(device))

    def padded(self, length: int, pad: int) -> TextBatch:
        """This batch at a fixed length, with nothing shared: what plain code computes; for tests and benchmarks."""
        ids = self.ids.new_full((len(self.ids), length), pad)
        width = min(length, self.ids.shape[1])
        ids[:, :width] = self.ids[:, :width]
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
    rows = []
    for name in names:
        text = template.format(name.replace("_", " "))
        row = _row(tokenizer, [piece.strip() for piece in re.split(r"(\[V\])", text)])
        if len(row) > tokenizer.context_length:
            raise ValueError(
                f"the prompt {text!r} has {len(row)} tokens, but the text tower reads at most "
                f"{tokenizer.context_length}: shorten the template, the number of context tokens or the class name"
            )
        rows.append(row)
    return _batch(rows, tokenizer.pad)


def caption_template(template: str | None) -> str:
    """What is left of a class template around a caption: its slots, without the words about a class name.

    ``"[V] [V] of a {}."`` becomes ``"[V] [V] {}"``.
    """
    return " ".join(re.findall(r"\[V\]|\{\}", template or "{}"))


def tokenize_captions(
    tokenizer: Tokenizer, template: str, captions: Sequence[str], limit: int
) -> tuple[TextBatch, int]:
    """Tokenise captions as official code does: what is too long is cut, and its end token kept.

    Args:
        template: slots around ``{}``, as ``caption_template`` makes it.
        captions: texts; braces and ``[V]`` mean nothing in them.
        limit: most tokens of a caption, special tokens included, slots not.

    Returns:
        The texts, and how many of them were cut.

    Raises:
        ValueError: no captions, or no room for a word beside the slots.
    """
    if not captions:
        raise ValueError("there are no captions to tokenise")
    pieces = template.split()
    special = 1 + (tokenizer.end is not None)
    room = min(limit - special, tokenizer.context_length - special - (len(pieces) - 1))
    if room < 1:
        raise ValueError(
            f"{len(pieces) - 1} context tokens leave no room for a caption in {tokenizer.context_length} tokens: "
            "use fewer of them"
        )
    rows, cut = [], 0
    for ids in tokenizer.encode_all(captions):
        cut += len(ids) > room
        rows.append(_row(tokenizer, [SLOT if piece == SLOT else ids[:room] for piece in pieces]))
    return _batch(rows, tokenizer.pad), cut


# A text's tokens, each with whether it is a slot.
_Row = list[tuple[int, bool]]


def _row(tokenizer: Tokenizer, pieces: Sequence[str | list[int]]) -> _Row:
    """A text's tokens from its pieces: slots, words, and ids that are known already."""
    row: _Row = [(tokenizer.start, False)]
    for piece in pieces:
        if piece == SLOT:
            row.append((tokenizer.pad, True))
        elif piece:
            row.extend((token, False) for token in (tokenizer.encode(piece) if isinstance(piece, str) else piece))
    if tokenizer.end is not None:
        row.append((tokenizer.end, False))
    return row


def _batch(rows: Sequence[_Row], pad: int) -> TextBatch:
    length = max(map(len, rows))
    ids = torch.tensor([[token for token, _ in row] + [pad] * (length - len(row)) for row in rows])
    end = torch.tensor([len(row) - 1 for row in rows])
    # The last token is each text's own, even where all are equal: it is the one that is pooled.
    columns = zip(*(row[:-1] for row in rows), strict=False)
    shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    slots = [[i for i, (_, slot) in enumerate(row) if slot] for row in rows]
    shared_slots = sum(slot < shared for slot in slots[0])
    leading = all(places == list(range(1, len(places) + 1)) for places in slots)
    slots_at = torch.tensor(slots, dtype=torch.long)
    return TextBatch(ids, slots_at, end, shared, shared_slots, sum(map(len, rows)), leading)
