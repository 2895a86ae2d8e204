"""Labelled images in the layout of CoOp's split files, and the few-shot sets drawn from them."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.data import Dataset

from registry import DATASETS

from .classes import ClassNames
from .transforms import FileReader

__all__ = ["Images", "Item", "Labelled", "SplitZhou", "few_shot", "halves", "read_split", "relabel"]

Reader = Callable[[Sequence[str]], Tensor]
PARTS = ("train", "val", "test")


class Item(NamedTuple):
    """One row of a split file: path below the image folder, label, class name."""

    path: str
    label: int
    name: str


class Images(Dataset):
    """A set of labelled images; a whole batch is read at once."""

    def __init__(self, items: Sequence[Item], classes: ClassNames, read: Reader) -> None:
        """Join items and reader.

        Args:
            items: whose labels index ``classes.names``.
            classes: the classes that these images are told apart among.
            read: paths to images (B, 3, H, W).
        """
        self.items, self.classes, self.read = tuple(items), classes, read

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The samples of a batch."""
        items = [self.items[index] for index in indices]
        images = self.read([item.path for item in items])
        return [
            {"images": image, "labels": item.label, "classes": self.classes}
            for image, item in zip(images, items, strict=True)
        ]


class Labelled:
    """A data set as protocols take it: the parts of its split file, its templates and a way to read images.

    Attributes:
        name: the data set's name.
        items: rows of each part, ``train``, ``val`` and ``test``.
        templates: sentences for the class names.
        hash: sha256 over the split file and whatever else decides what the images are.
    """

    name: str
    items: Mapping[str, tuple[Item, ...]]
    templates: tuple[str, ...]
    hash: str

    def reader(self, *, augment: bool) -> Reader:
        """What reads this data set's images."""
        raise NotImplementedError

    def images(self, items: Sequence[Item], *, augment: bool = False) -> Images:
        """A set of images over the classes that occur in ``items``, relabelled from 0 in label order."""
        items, names = relabel(items)
        return Images(items, ClassNames(names, self.templates), self.reader(augment=augment))


@dataclass(frozen=True)
class Layout:
    """Where a data set of CoOp's suite lies below the root, and its template."""

    folder: str
    images: str
    split: str
    template: str = "a photo of a {}."


# Source: the dataset instructions of CoOp and MaPLe. The other data sets of the suite have no such split
# file.
LAYOUTS = {
    "Caltech101": Layout("caltech-101", "101_ObjectCategories", "split_zhou_Caltech101.json"),
    "OxfordPets": Layout(
        "oxford_pets", "images", "split_zhou_OxfordPets.json", "a photo of a {}, a type of pet."
    ),
    "StanfordCars": Layout("stanford_cars", "", "split_zhou_StanfordCars.json"),
    "Flowers102": Layout(
        "oxford_flowers", "jpg", "split_zhou_OxfordFlowers.json", "a photo of a {}, a type of flower."
    ),
    "Food101": Layout("food-101", "images", "split_zhou_Food101.json", "a photo of {}, a type of food."),
    "SUN397": Layout("sun397", "SUN397", "split_zhou_SUN397.json"),
    "DTD": Layout("dtd", "images", "split_zhou_DescribableTextures.json", "{} texture."),
    "EuroSAT": Layout("eurosat", "2750", "split_zhou_EuroSAT.json", "a centered satellite photo of {}."),
    "UCF101": Layout(
        "ucf101", "UCF-101-midframes", "split_zhou_UCF101.json", "a photo of a person doing {}."
    ),
}


@DATASETS.register_module()
class SplitZhou(Labelled):
    """A data set of CoOp's suite, read from its folder and ``split_zhou_*.json``.

    A missing split file is not made anew: that would draw other images than the published results used.
    """

    def __init__(
        self, *, name: str, root: str, image_size: int = 224, template: str | None = None, check: bool = True
    ) -> None:
        """Read the split file.

        Args:
            name: one of ``LAYOUTS``.
            root: folder that holds the data sets' folders.
            image_size: side of the images in pixels.
            template: another sentence for the class names.
            check: look for the image folder now rather than at the first image.

        Raises:
            ValueError: unknown name, missing file or folder, or a file of another layout.
        """
        if name not in LAYOUTS:
            raise ValueError(f"dataset.name ({name!r}) must be one of {', '.join(LAYOUTS)}")
        layout = LAYOUTS[name]
        folder = Path(root).expanduser() / layout.folder
        self.name, self.image_size, self.folder = name, image_size, folder / layout.images
        self.templates = (template or layout.template,)
        if check and not self.folder.is_dir():
            raise ValueError(
                f"{name}: no image folder {self.folder}: unpack the images there, or set "
                f"dataset.root (now {root!r}) to the folder that holds {layout.folder}/"
            )
        self.items, digest = read_split(folder / layout.split)
        self.hash = _hash(digest, image_size)

    def reader(self, *, augment: bool) -> Reader:
        return FileReader(self.folder, size=self.image_size, augment=augment)


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def read_split(path: Path) -> tuple[dict[str, tuple[Item, ...]], str]:
    """Read a split file: ``{"train": [[path, label, class name], ...], "val": ..., "test": ...}``.

    Returns:
        the rows of each part, and the file's sha256.

    Raises:
        ValueError: it is missing, no JSON, or of another layout.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"split file {path} cannot be read ({error.strerror}): download CoOp's split file of "
            "this data set to there; it is not made anew, because another split is not comparable"
        ) from error
    try:
        data = json.loads(content)
        items = {
            part: tuple(Item(str(p), int(label), str(name)) for p, label, name in data[part])
            for part in PARTS
        }
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"split file {path} must be JSON with train, val and test, each a list of "
            f"[path, label, class name]: {type(error).__name__}: {error}"
        ) from error
    return items, hashlib.sha256(content).hexdigest()


def relabel(items: Iterable[Item]) -> tuple[tuple[Item, ...], tuple[str, ...]]:
    """Number the occurring classes from 0 in the order of their labels.

    Returns:
        the items with new labels, and the class names in their order.
    """
    items = tuple(items)
    names = {item.label: item.name for item in items}
    place = {label: index for index, label in enumerate(sorted(names))}
    return tuple(item._replace(label=place[item.label]) for item in items), tuple(
        names[label] for label in sorted(names)
    )


def halves(items: Iterable[Item]) -> tuple[set[int], set[int]]:
    """Base and new labels: the first ceil(C / 2) of the sorted labels, and the rest.

    Source: CoCoOp's base-to-new protocol, as every later method runs it.
    """
    labels = sorted({item.label for item in items})
    middle = (len(labels) + 1) // 2
    return set(labels[:middle]), set(labels[middle:])


def few_shot(items: Iterable[Item], shots: int, seed: int) -> tuple[Item, ...]:
    """Draw ``shots`` images of each class.

    The order of a class's images is that of a hash of seed and path: no state, the same on every machine, and
    the images of fewer shots are among those of more.

    Raises:
        ValueError: a class has fewer images; the message lists all such classes.
    """
    by_label: dict[int, list[Item]] = defaultdict(list)
    for item in items:
        by_label[item.label].append(item)
    short = [f"{group[0].name} ({len(group)})" for _, group in sorted(by_label.items()) if len(group) < shots]
    if short:
        raise ValueError(
            f"{shots} shots a class were asked for, but {len(short)} of {len(by_label)} classes have fewer "
            f"images: {', '.join(short[:10])}{', ...' if len(short) > 10 else ''}; lower protocol.shots"
        )

    def place(item: Item) -> bytes:
        return hashlib.sha256(f"{seed}/{item.path}".encode()).digest()

    return tuple(item for _, group in sorted(by_label.items()) for item in sorted(group, key=place)[:shots])
