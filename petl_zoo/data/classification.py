"""Labelled images in the layout of CoOp's split files, and the few-shot sets drawn from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.data import Dataset

from registry import DATASETS

from .classes import ClassNames
from .transforms import STATISTICS, FileReader

__all__ = ["Images", "Item", "Labelled", "SplitZhou", "few_shot", "halves", "read_split"]

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

    @cached_property
    def names(self) -> dict[int, str]:
        """The class name of each label that occurs in any part."""
        return {item.label: item.name for part in PARTS for item in self.items[part]}

    def images(self, items: Iterable[Item], *, labels: Iterable[int] | None = None, augment: bool = False) -> Images:
        """A set of images, told apart among the classes of ``labels`` and numbered from 0 in their order.

        The classes do not depend on ``items``: a class without an image is still a wrong answer for others.

        Args:
            items: rows of this data set; those of other classes are left out.
            labels: the classes; by default all of this data set.
            augment: change the images at random, as training wants them.
        """
        order = sorted(self.names if labels is None else labels)
        place = {label: index for index, label in enumerate(order)}
        kept = [item._replace(label=place[item.label]) for item in items if item.label in place]
        classes = ClassNames(tuple(self.names[label] for label in order), self.templates)
        return Images(kept, classes, self.reader(augment=augment))


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
    "OxfordPets": Layout("oxford_pets", "images", "split_zhou_OxfordPets.json", "a photo of a {}, a type of pet."),
    "StanfordCars": Layout("stanford_cars", "", "split_zhou_StanfordCars.json"),
    "Flowers102": Layout(
        "oxford_flowers", "jpg", "split_zhou_OxfordFlowers.json", "a photo of a {}, a type of flower."
    ),
    "Food101": Layout("food-101", "images", "split_zhou_Food101.json", "a photo of {}, a type of food."),
    "SUN397": Layout("sun397", "SUN397", "split_zhou_SUN397.json"),
    "DTD": Layout("dtd", "images", "split_zhou_DescribableTextures.json", "{} texture."),
    "EuroSAT": Layout("eurosat", "2750", "split_zhou_EuroSAT.json", "a centered satellite photo of {}."),
    "UCF101": Layout("ucf101", "UCF-101-midframes", "split_zhou_UCF101.json", "a photo of a person doing {}."),
}


@DATASETS.register_module()
class SplitZhou(Labelled):
    """A data set of CoOp's suite, read from its folder and ``split_zhou_*.json``.

    A missing split file is not made anew: that would draw other images than the published results used.
    """

    def __init__(
        self, *, name: str, root: str, image_size: int = 224, template: str | None = None, statistics: str = "clip"
    ) -> None:
        """Read the split file.

        Args:
            name: one of ``LAYOUTS``.
            root: folder that holds the data sets' folders.
            image_size: side of the images in pixels.
            template: another sentence for the class names.
            statistics: what images are normalised with, ``clip`` (CLIP, BLIP, ALBEF) or ``inception`` (BEiT-3).

        Raises:
            ValueError: unknown name or statistics, missing file or folder, or a file of another layout.
        """
        if name not in LAYOUTS:
            raise ValueError(f"dataset.name ({name!r}) must be one of {', '.join(LAYOUTS)}")
        if statistics not in STATISTICS:
            raise ValueError(f"dataset.statistics ({statistics!r}) must be one of {', '.join(STATISTICS)}")
        self.statistics = statistics
        layout = LAYOUTS[name]
        folder = Path(root).expanduser().absolute() / layout.folder
        self.name, self.image_size, self.folder = name, image_size, folder / layout.images
        self.templates = (template or layout.template,)
        if not self.folder.is_dir():
            raise ValueError(
                f"{name}: no image folder {self.folder}: unpack the images there, or set "
                f"dataset.root (now {root!r}) to the folder that holds {layout.folder}/"
            )
        self.items, digest = read_split(folder / layout.split)
        self.hash = _hash(digest, image_size, *([] if statistics == "clip" else [statistics]))

    def reader(self, *, augment: bool) -> Reader:
        mean, std = STATISTICS[self.statistics]
        return FileReader(self.folder, size=self.image_size, augment=augment, mean=mean, std=std)


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def read_split(path: Path) -> tuple[dict[str, tuple[Item, ...]], str]:
    """Read a split file: ``{"train": [[path, label, class name], ...], "val": ..., "test": ...}``.

    Returns:
        the rows of each part, and the file's sha256.

    Raises:
        ValueError: it is missing, no JSON, or of another layout; a part is empty; the labels are not 0 to
            C - 1, or one has two names; an image is in two parts.
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
    except ValueError as error:
        raise ValueError(f"split file {path} is no JSON ({error}): download it again") from error
    try:
        items = {part: _rows(data, part) for part in PARTS}
        _check_rows(items)
    except ValueError as error:
        raise ValueError(f"split file {path}: {error}; download it again") from error
    return items, hashlib.sha256(content).hexdigest()


def _rows(data: Any, part: str) -> tuple[Item, ...]:
    rows = data.get(part) if isinstance(data, dict) else None
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"it must be an object whose {part!r} is a list of [path, label, class name], not empty")
    items = []
    for index, row in enumerate(rows):
        match row:
            case [str(path), int(label), str(name)]:
                items.append(Item(path, label, name))
            case _:
                raise ValueError(f"{part}[{index}] is {row!r} and must be [path, label, class name]")
    return tuple(items)


def _check_rows(items: Mapping[str, Sequence[Item]]) -> None:
    names: dict[int, str] = {}
    part_of: dict[str, str] = {}
    for part, rows in items.items():
        for item in rows:
            if names.setdefault(item.label, item.name) != item.name:
                raise ValueError(f"label {item.label} is named both {names[item.label]!r} and {item.name!r}")
            if part_of.setdefault(item.path, part) != part:
                raise ValueError(f"image {item.path!r} is in {part_of[item.path]} and in {part}")
    # A gap would shift the halves of base-to-new against the published ones.
    missing = sorted(set(range(len(names))) - set(names))
    if missing:
        raise ValueError(
            f"its {len(names)} labels must be 0 to {len(names) - 1}, but {', '.join(map(str, missing[:10]))} "
            "do not occur"
        )


def halves(labels: Iterable[int]) -> tuple[list[int], list[int]]:
    """Base and new labels: the first ceil(C / 2) of the sorted labels, and the rest.

    Source: CoCoOp's base-to-new protocol, as every later method runs it.
    """
    ordered = sorted(set(labels))
    middle = (len(ordered) + 1) // 2
    return ordered[:middle], ordered[middle:]


def few_shot(
    items: Iterable[Item], shots: int, seed: int, *, names: Mapping[int, str], option: str = "protocol.shots"
) -> tuple[Item, ...]:
    """Draw ``shots`` images of each class.

    The order of a class's images is that of a hash of seed and path: no state, the same on every machine, and
    the images of fewer shots are among those of more.

    Args:
        items: the images to draw from.
        shots: images a class.
        seed: another seed draws other images.
        names: the class name of each label that must be drawn from.
        option: the config key that asked for so many; the error names it.

    Raises:
        ValueError: a class has fewer images; the message lists these classes, the first 20 by name.
    """
    by_label: dict[int, list[Item]] = {label: [] for label in sorted(names)}
    for item in items:
        by_label[item.label].append(item)
    short = [f"{names[label]} ({len(group)})" for label, group in by_label.items() if len(group) < shots]
    if short:
        fewest = min(len(group) for group in by_label.values())
        more = f" and {len(short) - 20} more" if len(short) > 20 else ""
        raise ValueError(
            f"{option} ({shots}): {len(short)} of {len(names)} classes have fewer images: "
            f"{', '.join(short[:20])}{more}; "
            + (f"lower {option} to at most {fewest}" if fewest else "take a data set that has images of each class")
        )

    def place(item: Item) -> bytes:
        return hashlib.sha256(f"{seed}/{item.path}".encode()).digest()

    return tuple(item for group in by_label.values() for item in sorted(group, key=place)[:shots])
