"""What of a data set is on disk, what is missing, and whether its counts are those of published results."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry import DATASETS

from .captions import Captioned, CaptionItem
from .classification import LAYOUTS, PARTS, Item, SplitZhou, read_split
from .glyphs.scenes import GlyphScenes, control_recall
from .retrieval import KarpathyCaptions, annotation_files, cleaner, read_annotations

__all__ = ["Finding", "check"]

# Images of train, val and test. Source: CoOp's appendix, table of data sets; its split files hold as many.
IMAGES = {
    "Caltech101": (4128, 1649, 2465),
    "OxfordPets": (2944, 736, 3669),
    "StanfordCars": (6509, 1635, 8041),
    "Flowers102": (4093, 1633, 2463),
    "Food101": (50500, 20200, 30300),
    "SUN397": (15880, 3970, 19850),
    "DTD": (2820, 1128, 1692),
    "EuroSAT": (13500, 5400, 8100),
    "UCF101": (7639, 1898, 3783),
    "COCO": (113287, 5000, 5000),
    "Flickr30K": (29000, 1014, 1000),
}
# Captions of the same. Source: Karpathy's splits.
CAPTIONS = {"COCO": (566747, 25010, 25010), "Flickr30K": (145000, 5070, 5000)}


@dataclass(frozen=True)
class Finding:
    """One thing that a data set needs.

    Attributes:
        what: such as ``split file`` or ``test captions``.
        good: whether it is there and right; None for what only informs.
        detail: the path that is missing, the counts, or what is wrong.
    """

    what: str
    good: bool | None
    detail: str


def check(dataset: Mapping[str, Any]) -> list[Finding]:
    """Look at a data set without building it, as far as it lies on disk; build it, where it ships with the project.

    Args:
        dataset: a config's section, such as ``dict(type="SplitZhou", name="DTD", root="data")``.

    Raises:
        ValueError: options that no data set of this type takes, or values that are not allowed.
    """
    built = DATASETS.get(dataset["type"])
    if built is None:
        raise ValueError(f"dataset.type ({dataset['type']!r}) is no data set; import its module by custom_imports")
    try:
        bound = inspect.signature(built).bind(**{key: value for key, value in dataset.items() if key != "type"})
    except TypeError as error:
        raise ValueError(f"dataset: {error}; {dataset['type']} says what it takes") from error
    bound.apply_defaults()
    if built is SplitZhou:
        return list(_split_zhou(bound.arguments))
    if built is KarpathyCaptions:
        return list(_karpathy(bound.arguments))
    return list(_shipped(DATASETS.build(dict(dataset))))


def _split_zhou(options: Mapping[str, Any]) -> Iterator[Finding]:
    name = options["name"]
    if name not in LAYOUTS:
        raise ValueError(f"dataset.name ({name!r}) must be one of {', '.join(LAYOUTS)}")
    layout = LAYOUTS[name]
    folder = Path(options["root"]).expanduser().absolute() / layout.folder
    split = folder / layout.split
    yield _exists("split file", split)
    yield _exists("image folder", folder / layout.images)
    if not split.is_file():
        return
    try:
        items, _ = read_split(split)
    except ValueError as error:
        yield Finding("split file", False, str(error))
        return
    yield from _counted("images", items, IMAGES.get(name))
    yield _images(folder / layout.images, items)


def _karpathy(options: Mapping[str, Any]) -> Iterator[Finding]:
    name, layout = options["name"], options["layout"]
    base = Path(options["root"]).expanduser().absolute()
    files = annotation_files(base, options["annotations"], layout)
    clean = cleaner(options["cleaning"], options["max_words"])
    for path in dict.fromkeys(files.values()):
        yield _exists("annotations", path)
    yield _exists("image folder", base / options["images"])
    if not all(path.is_file() for path in files.values()):
        return
    try:
        items, _ = read_annotations(files, layout, clean)
    except ValueError as error:
        yield Finding("annotations", False, str(error))
        return
    yield from _counted("images", items, IMAGES.get(name))
    yield from _counted("captions", _captions(items), CAPTIONS.get(name))
    yield _images(base / options["images"], items)


def _shipped(dataset: Any) -> Iterator[Finding]:  # Any: whatever a third party registers as a data set
    yield Finding("data", True, "needs no download")
    items = getattr(dataset, "items", None)
    if isinstance(items, Mapping):
        yield from _counted("images", items, None)
    if isinstance(dataset, Captioned):
        yield from _counted("captions", _captions(dataset.items), None)
    if isinstance(dataset, GlyphScenes):
        control = control_recall(dataset.items["test"])
        shown = ", ".join(f"{key} {100 * value:.1f}" for key, value in control.items())
        yield Finding("test recall from colour and count alone, %", None, shown)


def _captions(parts: Mapping[str, Sequence[CaptionItem]]) -> dict[str, list[str]]:
    return {part: [caption for item in items for caption in item.captions] for part, items in parts.items()}


def _exists(what: str, path: Path) -> Finding:
    there = path.exists()
    return Finding(what, there, str(path) if there else f"missing: {path}")


def _counted(what: str, parts: Mapping[str, Sequence[Any]], published: Sequence[int] | None) -> Iterator[Finding]:
    for place, part in enumerate(PARTS):
        count = len(parts[part])
        if published is None:
            yield Finding(f"{part} {what}", None, f"{count:,}")
        elif count == published[place]:
            yield Finding(f"{part} {what}", True, f"{count:,}")
        else:
            yield Finding(f"{part} {what}", False, f"{count:,}, but the published split has {published[place]:,}")


def _images(folder: Path, parts: Mapping[str, Sequence[Item | CaptionItem]]) -> Finding:
    """Whether every image of every part is there; a folder is listed once instead of asked for each image."""
    paths = [folder / item[0] for rows in parts.values() for item in rows]
    missing = list(_missing(paths))
    if not missing:
        return Finding("image files", True, f"all {len(paths):,}")
    return Finding("image files", False, f"{len(missing):,} of {len(paths):,} missing, the first: {missing[0]}")


def _missing(paths: Iterable[Path]) -> Iterator[Path]:
    listed: dict[Path, set[str]] = {}
    for path in paths:
        if path.parent not in listed:
            listed[path.parent] = set(os.listdir(path.parent)) if path.parent.is_dir() else set()
        if path.name not in listed[path.parent]:
            yield path
