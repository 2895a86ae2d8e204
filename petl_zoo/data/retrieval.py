"""COCO, Flickr30K and what else has Karpathy's split, in BLIP's and ALBEF's annotation files or in Karpathy's own."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from registry import DATASETS

from .captions import Captioned, CaptionItem
from .classification import PARTS, Reader
from .transforms import STATISTICS, SquareReader

__all__ = ["CLEANING", "LAYOUTS", "KarpathyCaptions", "annotation_files", "cleaner", "read_annotations"]

LAYOUTS = ("blip", "karpathy")


def clean_blip(caption: str, max_words: int) -> str:
    """Clean a caption as BLIP does: lower case, some signs to blanks, at most ``max_words`` words.

    Source: BLIP's pre_caption.
    """
    return _cut(re.sub(r"[.!\"()*#:;~]", " ", caption.lower()), max_words)


def clean_albef(caption: str, max_words: int) -> str:
    """Clean a caption as ALBEF does: lower case, signs removed, hyphens and slashes to blanks, cut.

    Source: ALBEF's pre_caption.
    """
    text = re.sub(r"[,.'!?\"()*#:;~]", "", caption.lower())
    return _cut(re.sub(r"[-/]", " ", text).replace("<person>", "person"), max_words)


def _raw(caption: str, max_words: int) -> str:
    return caption.strip()


def _cut(text: str, max_words: int) -> str:
    return " ".join(text.split()[:max_words])


# BEiT-3 leaves captions as they are.
CLEANING: dict[str, Callable[[str, int], str]] = {"blip": clean_blip, "albef": clean_albef, "none": _raw}


def cleaner(kind: str, max_words: int) -> Callable[[str], str]:
    """From a caption to what is left of it.

    Raises:
        ValueError: ``kind`` is none of ``CLEANING``, or no word is left.
    """
    if kind not in CLEANING:
        raise ValueError(f"dataset.cleaning ({kind!r}) must be one of {', '.join(CLEANING)}")
    if max_words < 1:
        raise ValueError(f"dataset.max_words ({max_words}) must be at least 1; BLIP and ALBEF take 30")
    return lambda caption: CLEANING[kind](caption, max_words)


class Row(NamedTuple):
    """An entry of an annotation file, with where it stands there."""

    where: str
    image: str
    captions: tuple[str, ...]
    image_id: str
    whole: bool  # these are all captions of the image; other rows of one caption each may belong together


@DATASETS.register_module()
class KarpathyCaptions(Captioned):
    """Images with several captions each, split as Karpathy did; ``restval`` is trained on.

    Layout ``blip``: a file a part, a list of ``{"image", "caption", "image_id"}``, where ``caption`` is a text (several
    rows an image) or a list of texts. Layout ``karpathy``: one file, ``{"images": [{"filename", "filepath", "split",
    "sentences": [{"raw"}]}]}``.
    """

    def __init__(
        self,
        *,
        name: str,
        root: str,
        annotations: str,
        layout: str = "blip",
        images: str = "",
        image_size: int = 384,
        statistics: str = "clip",
        cleaning: str = "blip",
        max_words: int = 30,
        magnitude: int = 5,
    ) -> None:
        """Read the annotations.

        Args:
            name: the data set's name in records.
            root: its folder.
            annotations: file of the annotations below the root; in layout ``blip`` with ``{part}`` where ``train``,
                ``val`` or ``test`` stands in the files' names.
            layout: ``blip``, which ALBEF shares, or ``karpathy``.
            images: folder below the root that the images' paths are relative to.
            image_size: side of the images in pixels.
            statistics: mean and standard deviation: ``clip``, or ``inception`` for BEiT-3.
            cleaning: how captions are cleaned: ``blip``, ``albef`` or ``none``.
            max_words: words of a caption that are kept, where captions are cleaned.
            magnitude: strength of the random augmentation, 0 to 10; BLIP 5, ALBEF and BEiT-3 7.

        Raises:
            ValueError: an unknown option; a file that is missing or of another layout; a caption with no words;
                an image with two ids, or one that is in two parts; the first image of a part does not exist.
        """
        if statistics not in STATISTICS:
            raise ValueError(f"dataset.statistics ({statistics!r}) must be one of {', '.join(STATISTICS)}")
        self.name, self.image_size, self.statistics, self.magnitude = name, image_size, statistics, magnitude
        base = Path(root).expanduser().absolute()
        self.folder = base / images
        files = annotation_files(base, annotations, layout)
        self.items, digests = read_annotations(files, layout, cleaner(cleaning, max_words))
        for part, items in self.items.items():
            first = self.folder / items[0].image
            if not first.is_file():
                raise ValueError(
                    f"{name}: no image {first}, the first of {part}: unpack the images there, or set dataset.root "
                    f"(now {root!r}) and dataset.images (now {images!r})"
                )
        decides = [*digests, image_size, statistics, cleaning, max_words]
        self.hash = hashlib.sha256(json.dumps(decides).encode()).hexdigest()

    def reader(self, *, augment: bool) -> Reader:
        mean, std = STATISTICS[self.statistics]
        return SquareReader(
            self.folder, size=self.image_size, augment=augment, mean=mean, std=std, magnitude=self.magnitude
        )


def annotation_files(root: Path, annotations: str, layout: str) -> dict[str, Path]:
    """The file that each part is read from.

    Raises:
        ValueError: unknown layout; the name has no place for the part in layout ``blip``, or has one in ``karpathy``.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"dataset.layout ({layout!r}) must be one of {', '.join(LAYOUTS)}")
    if ("{part}" in annotations) != (layout == "blip"):
        needed = "hold {part}, a file a part" if layout == "blip" else "be one file, without {part}"
        raise ValueError(f"dataset.annotations ({annotations!r}) must {needed}, in layout {layout!r}")
    return {part: root / annotations.replace("{part}", part) for part in PARTS}


def read_annotations(
    files: Mapping[str, Path], layout: str, clean: Callable[[str], str]
) -> tuple[dict[str, tuple[CaptionItem, ...]], list[str]]:
    """Read the images of each part with their captions.

    Args:
        files: the file of each part, as ``annotation_files`` gives them.
        layout: one of ``LAYOUTS``.
        clean: from a caption to what is left of it.

    Returns:
        the images of each part, and the files' sha256.

    Raises:
        ValueError: a file is missing or of another layout; a caption with no words; an image with two ids, twice in a
            part or in two parts.
    """
    contents = {path: _load(path) for path in dict.fromkeys(files.values())}
    read = _karpathy_rows if layout == "karpathy" else _blip_rows
    items: dict[str, tuple[CaptionItem, ...]] = {}
    part_of: dict[str, str] = {}
    for part, path in files.items():
        try:
            items[part] = _items(read(contents[path][0], part), clean)
            for item in items[part]:
                if part_of.setdefault(item.image, part) != part:
                    raise ValueError(f"image {item.image!r} is in {part_of[item.image]} and in {part}")
        except ValueError as error:
            raise ValueError(f"annotations {path}: {error}; download the file again") from error
    return items, [digest for _, digest in contents.values()]


def _load(path: Path) -> tuple[Any, str]:
    """The content of a JSON file, and its sha256."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"annotations {path} cannot be read ({error.strerror}): download the file to there, or set "
            "dataset.root and dataset.annotations"
        ) from error
    try:
        return json.loads(content), hashlib.sha256(content).hexdigest()
    except ValueError as error:
        raise ValueError(f"annotations {path} is no JSON ({error}): download it again") from error


def _blip_rows(data: Any, part: str) -> Iterator[Row]:
    if not isinstance(data, list):
        raise ValueError(f"it must be a list of objects, and is {type(data).__name__}; is dataset.layout right?")
    for index, entry in enumerate(data):
        match entry:
            case {"image": str(image), "caption": str(caption)}:
                captions: Sequence[Any] = (caption,)
            case {"image": str(image), "caption": [*captions]} if all(isinstance(text, str) for text in captions):
                pass
            case _:
                raise ValueError(f"[{index}] is {_short(entry)} and must have 'image' and 'caption'")
        whole = not isinstance(entry["caption"], str)
        yield Row(f"[{index}]", image, tuple(captions), str(entry.get("image_id", image)), whole)


def _karpathy_rows(data: Any, part: str) -> Iterator[Row]:
    entries = data.get("images") if isinstance(data, dict) else None
    if not isinstance(entries, list):
        raise ValueError("it must be an object whose 'images' is a list; is dataset.layout right?")
    for index, entry in enumerate(entries):
        match entry:
            case {"filename": str(file), "split": str(split), "sentences": [*sentences]} if all(
                isinstance(sentence, dict) and isinstance(sentence.get("raw"), str) for sentence in sentences
            ):
                pass
            case _:
                raise ValueError(
                    f"images[{index}] is {_short(entry)} and must have 'filename', 'split' and 'sentences'"
                )
        if split not in (*PARTS, "restval"):
            raise ValueError(f"images[{index}].split ({split!r}) must be one of {', '.join(PARTS)}, restval")
        if part == ("train" if split == "restval" else split):
            image = "/".join(filter(None, (entry.get("filepath", ""), file)))
            number = entry.get("cocoid", entry.get("imgid", image))
            yield Row(f"images[{index}]", image, tuple(sentence["raw"] for sentence in sentences), str(number), True)


def _items(rows: Iterator[Row], clean: Callable[[str], str]) -> tuple[CaptionItem, ...]:
    """Images in the order in which they first occur, each with all its captions."""
    captions: dict[str, list[str]] = {}
    image_of: dict[str, str] = {}
    id_of: dict[str, str] = {}
    complete: set[str] = set()
    for row in rows:
        if image_of.setdefault(row.image_id, row.image) != row.image:
            raise ValueError(
                f"{row.where}: image id {row.image_id!r} is that of {image_of[row.image_id]!r} and of {row.image!r}"
            )
        if id_of.setdefault(row.image, row.image_id) != row.image_id:
            raise ValueError(f"{row.where}: image {row.image!r} has the ids {id_of[row.image]!r} and {row.image_id!r}")
        if row.image in captions and (row.whole or row.image in complete):
            raise ValueError(f"{row.where}: image {row.image!r} occurs twice")
        if row.whole:
            complete.add(row.image)
        if not row.captions:
            raise ValueError(f"{row.where}: image {row.image!r} has no caption")
        for caption in row.captions:
            text = clean(caption)
            if not text:
                raise ValueError(
                    f"{row.where}: image {row.image!r} has the caption {caption!r}, in which there is no word"
                )
            captions.setdefault(row.image, []).append(text)
    if not captions:
        raise ValueError("there is no image of this part")
    return tuple(CaptionItem(image, tuple(texts), id_of[image]) for image, texts in captions.items())


def _short(entry: Any) -> str:
    text = repr(entry)
    return text if len(text) <= 80 else f"{text[:80]}..."
