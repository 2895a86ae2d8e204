"""Captioned images: what a training batch and a gallery hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from petl_zoo.data import CaptionItem, CaptionPairs, Gallery, GalleryImages, collate

ITEMS = (
    CaptionItem("3", ("three", "drei"), "c"),
    CaptionItem("1", ("one", "eins", "un"), "a"),
    CaptionItem("2", ("two",), "c"),
)


def read(paths: Sequence[str]) -> Tensor:
    return torch.tensor([float(path) for path in paths])[:, None, None, None].expand(-1, 3, 2, 2)


def test_pairs_are_one_sample_a_caption() -> None:
    pairs = CaptionPairs(ITEMS, read)
    assert len(pairs) == 6
    batch = collate(pairs.__getitems__([4, 0, 1, 5]))
    assert batch["captions"] == ["un", "three", "drei", "two"]
    assert batch["images"][:, 0, 0, 0].tolist() == [1, 3, 3, 2]
    assert batch["ids"].tolist() == [1, 0, 0, 0]  # dense, and the same for one image id


def test_a_gallery_has_one_sample_an_image() -> None:
    images = GalleryImages(ITEMS, read, foils=(-1, 2, 1, -1, -1, -1))
    assert len(images) == 3
    batch = collate(images.__getitems__([2, 1]))
    assert batch["index"].tolist() == [2, 1]
    assert batch["images"][:, 0, 0, 0].tolist() == [2, 1]
    gallery = batch["gallery"]
    assert gallery.captions == ("three", "drei", "one", "eins", "un", "two")
    assert gallery.image_of == (0, 0, 1, 1, 1, 2)
    assert [gallery.texts_of(image) for image in range(3)] == [(0, 1), (2, 3, 4), (5,)]
    assert gallery.foils == (-1, 2, 1, -1, -1, -1)
    assert images[1]["gallery"] is gallery


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"image_of": (0,)}, "2 captions has 1 entries in image_of"),
        ({"image_of": (0, 2)}, "must name each image, 0 to 1"),
        ({"image_of": (0, 0)}, "must name each image"),
        ({"foils": (1,)}, "2 captions has 1 foils"),
        ({"foils": (1, 2)}, "foils must be places of captions, 0 to 1, or -1"),
    ],
)
def test_a_gallery_that_does_not_fit_together_is_told(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Gallery(**{"captions": ("a", "b"), "image_of": (0, 1), "num_images": 2, **change})


def test_galleries_are_compared_by_what_they_hold() -> None:
    one, other = (Gallery(("a", "b"), (0, 1), 2) for _ in range(2))
    one.texts_of(0)  # what is remembered does not count
    assert (one, hash(one)) == (other, hash(other))
    assert one != Gallery(("a", "c"), (0, 1), 2)
