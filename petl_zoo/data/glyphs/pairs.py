"""Images and names for pretraining the tiny backbones on Glyphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from petl_zoo.data.classes import ClassNames
from registry import DATASETS

from .atlas import STYLES, Concept, concepts, glyphs, metadata_hash
from .render import View, render

__all__ = ["PRETRAINING_STYLES", "TEMPLATES", "GlyphPairs"]

# ``flat`` and ``contrast`` are never seen: one is the shipped test of an unseen style, the other a style to
# adapt to.
PRETRAINING_STYLES = ("twemoji", "noto", "noto1", "emojione", "fluent")

TEMPLATES = (
    "a photo of a {}.",
    "a picture of a {}.",
    "an image of a {}.",
    "a drawing of a {}.",
    "an emoji of a {}.",
    "a photo of {}.",
    "the {}.",
    "a {}.",
)


@DATASETS.register_module()
class GlyphPairs(Dataset):
    """Endless freshly rendered glyphs, each batch with its own list of classes.

    A batch's classes are its own concepts and some others, all distinct, so that the text tower runs over a
    few hundred short names instead of all with their template, and no image has a second right answer. Most
    batches use bare names, some a template, some the subgroups' names with every image labelled by its
    subgroup.

    Everything is drawn from torch's global generator; an index says nothing, the length only how long an
    epoch is. The views begin calm and become as free as ``view`` while training runs: ``set_epoch`` says how
    far it is.
    """

    def __init__(
        self,
        *,
        length: int,
        styles: Sequence[str] = PRETRAINING_STYLES,
        size: int = 48,
        negatives: int = 160,
        template_share: float = 0.3,
        subgroup_share: float = 0.1,
        jitter: float = 0.3,
        ramp: float = 0.25,
    ) -> None:
        """Choose what is drawn.

        Args:
            length: images an epoch.
            styles: whose drawings are used.
            size: side of the images in pixels.
            negatives: most classes of a batch beside its own concepts.
            template_share: share of batches whose names stand in a template.
            subgroup_share: share of batches whose classes are the subgroups.
            jitter: colour jitter, 0 to 1.
            ramp: share of the training after which the views are as free as they get.

        Raises:
            ValueError: no style, or an unknown one.
        """
        unknown = [style for style in styles if style not in STYLES]
        if unknown or not styles:
            raise ValueError(f"dataset.styles ({styles!r}) must be some of {', '.join(STYLES)}")
        self.name, self.hash = "GlyphPairs", metadata_hash()
        self.length, self.size, self.negatives = length, size, negatives
        self.template_share, self.subgroup_share = template_share, subgroup_share
        self.jitter, self.ramp, self.progress = jitter, ramp, 1.0
        seen = [index for index, concept in enumerate(concepts()) if concept.pretrain]
        self.concepts: list[Concept] = [concepts()[index] for index in seen]
        self.classes = ClassNames(tuple(concept.name for concept in self.concepts))
        self.kinds = sorted({concept.kind for concept in self.concepts})
        self.kind_of = torch.tensor([self.kinds.index(concept.kind) for concept in self.concepts])
        drawn = [(style, label) for style in styles for label, c in enumerate(self.concepts) if style in c.styles]
        self.labels = torch.tensor([label for _, label in drawn])
        self.glyphs = torch.stack([glyphs(style)[seen[label]] for style, label in drawn])  # (P, 4, 64, 64)

    def __len__(self) -> int:
        return self.length

    def set_epoch(self, epoch: int, max_epochs: int) -> None:
        """Take over how far training is."""
        self.progress = epoch / max_epochs

    @property
    def view(self) -> View:
        """The views of this moment."""
        free = min(1.0, self.progress / self.ramp) if self.ramp else 1.0
        full = View()
        return View(
            scale=(1 - free * (1 - full.scale[0]), 1.0),
            rotation=free * full.rotation,
            jitter=free * self.jitter,
        )

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        chosen = torch.randint(len(self.labels), (len(indices),))
        images = render(self.glyphs[chosen], size=self.size, view=self.view)
        labels, classes = self._name(self.labels[chosen])
        return [
            {"images": image, "labels": int(label), "classes": classes}
            for image, label in zip(images, labels, strict=True)
        ]

    def _name(self, labels: Tensor) -> tuple[Tensor, ClassNames]:
        """Draw the batch's classes; returns the labels (B,) among them."""
        kind, which = torch.rand(2).tolist()
        template = "{}"
        if kind < self.template_share + self.subgroup_share:
            template = TEMPLATES[int(which * len(TEMPLATES))]
        if kind < self.subgroup_share:
            return self.kind_of[labels], ClassNames(tuple(self.kinds), (template,))
        own, places = torch.unique(labels, return_inverse=True)
        others = torch.randperm(len(self.concepts))[: self.negatives]
        others = others[~torch.isin(others, own)]
        names = [self.concepts[i].name for i in torch.cat([own, others]).tolist()]
        return places, ClassNames(tuple(names), (template,))
