"""Captioned images, and the two kinds of sets made of them: pairs to train on, and a gallery to search in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from torch.utils.data import Dataset

from .classification import Reader

__all__ = ["CaptionItem", "CaptionPairs", "Captioned", "Gallery", "GalleryImages"]


class CaptionItem(NamedTuple):
    """One image: path below the image folder, its captions, and the id that its annotations give it."""

    image: str
    captions: tuple[str, ...]
    image_id: str


@dataclass(frozen=True)
class Gallery:
    """The images and texts of a retrieval test, by their places: every text is searched among all images.

    Attributes:
        captions: (T) all texts, image after image.
        image_of: (T) the image that each text tells of, 0 to ``num_images`` - 1.
        num_images: images, I.
        foils: (T) for each text the place of the one that tells the same of another scene, -1 where there is
            none; empty for data without foils. A two-way test asks whether an image agrees better with its
            own text than with the foil.

    Raises:
        ValueError: lengths or places do not fit together, or an image has no text.
    """

    captions: tuple[str, ...]
    image_of: tuple[int, ...]
    num_images: int
    foils: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.image_of) != len(self.captions):
            raise ValueError(f"a gallery of {len(self.captions)} captions has {len(self.image_of)} entries in image_of")
        if set(self.image_of) != set(range(self.num_images)):
            raise ValueError(f"image_of must name each image, 0 to {self.num_images - 1}, and no other")
        if self.foils and len(self.foils) != len(self.captions):
            raise ValueError(f"a gallery of {len(self.captions)} captions has {len(self.foils)} foils")
        if any(not -1 <= foil < len(self.captions) for foil in self.foils):
            raise ValueError(f"foils must be places of captions, 0 to {len(self.captions) - 1}, or -1")

    @cached_property
    def _texts(self) -> tuple[tuple[int, ...], ...]:
        texts: list[list[int]] = [[] for _ in range(self.num_images)]
        for text, image in enumerate(self.image_of):
            texts[image].append(text)
        return tuple(map(tuple, texts))

    def texts_of(self, image: int) -> tuple[int, ...]:
        """The places of an image's own texts."""
        return self._texts[image]


class CaptionPairs(Dataset):
    """One sample a caption, with its image; a whole batch is read at once."""

    def __init__(self, items: Sequence[CaptionItem], read: Reader) -> None:
        """Join items and reader.

        Args:
            items: images with their captions.
            read: paths to images (B, 3, H, W).
        """
        self.items, self.read = tuple(items), read
        numbers: dict[str, int] = {}
        self.pairs = [
            (item.image, caption, numbers.setdefault(item.image_id, len(numbers)))
            for item in self.items
            for caption in item.captions
        ]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The samples of a batch; ``ids`` are dense, and equal for captions of one image."""
        pairs = [self.pairs[index] for index in indices]
        images = self.read([path for path, _, _ in pairs])
        return [
            {"images": image, "captions": caption, "ids": number}
            for image, (_, caption, number) in zip(images, pairs, strict=True)
        ]


class GalleryImages(Dataset):
    """One sample an image, with its place in the gallery of all captions."""

    def __init__(self, items: Sequence[CaptionItem], read: Reader, foils: Sequence[int] = ()) -> None:
        """Join items and reader.

        Args:
            items: images with their captions.
            read: paths to images (B, 3, H, W).
            foils: as in ``Gallery``, over the captions of the items in their order.
        """
        self.items, self.read = tuple(items), read
        texts = [(caption, place) for place, item in enumerate(self.items) for caption in item.captions]
        self.gallery = Gallery(
            captions=tuple(caption for caption, _ in texts),
            image_of=tuple(place for _, place in texts),
            num_images=len(self.items),
            foils=tuple(foils),
        )

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The samples of a batch."""
        images = self.read([self.items[index].image for index in indices])
        return [
            {"images": image, "index": int(index), "gallery": self.gallery}
            for image, index in zip(images, indices, strict=True)
        ]


class Captioned:
    """A data set as retrieval protocols take it: the parts of its annotations and a way to read images.

    Attributes:
        name: the data set's name.
        items: images of each part, ``train``, ``val`` and ``test``.
        hash: sha256 over the annotations and whatever else decides what the images are.
    """

    name: str
    items: Mapping[str, tuple[CaptionItem, ...]]
    hash: str

    def reader(self, *, augment: bool) -> Reader:
        """What reads this data set's images."""
        raise NotImplementedError

    def foils(self, part: str) -> tuple[int, ...]:
        """As in ``Gallery``, over the captions of a part; none unless the data have twins."""
        return ()

    def pairs(self, part: str) -> CaptionPairs:
        """A part to train on."""
        return CaptionPairs(self.items[part], self.reader(augment=True))

    def gallery(self, part: str) -> GalleryImages:
        """A part to search in."""
        return GalleryImages(self.items[part], self.reader(augment=False), self.foils(part))
