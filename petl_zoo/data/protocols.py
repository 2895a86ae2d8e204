"""Protocols: which images are trained on, chosen by and tested on. Named, versioned, hashed and frozen.

A protocol turns a data set into ``Parts``; two records may be compared only if their protocols' hashes are
equal.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from torch.utils.data import Dataset

from registry import PROTOCOLS

from .captions import Captioned, CaptionPairs, GalleryImages
from .classification import Images, Item, Labelled, few_shot, halves
from .glyphs.atlas import STYLES
from .glyphs.dataset import Glyphs, every_concept
from .glyphs.pairs import PRETRAINING_STYLES, GlyphPairs
from .glyphs.scene_pairs import ScenePairs
from .glyphs.scenes import GlyphScenes

__all__ = ["BaseToNew", "FewShot", "Parts", "Pretraining", "Protocol", "Retrieval", "ScenePretraining", "StyleShift"]

VAL_SHOTS = 4  # images a class of the validation set, at most; CoOp's rule


@dataclass(frozen=True)
class Parts:
    """The sets of a protocol on one data set.

    Attributes:
        train: what is trained on; for classification its ``classes`` are the training classes.
        val: what settings are chosen by; it shares no image with ``train`` or ``test``.
        test: what is reported, by name.
    """

    train: Dataset
    val: Images | GalleryImages | None
    test: Mapping[str, Images | GalleryImages]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What all protocols share.

    Attributes:
        name: name in records and tables.
        version: raised whenever the same options come to mean other images or metrics.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1

    @property
    def hash(self) -> str:
        """sha256 over name, version and options; the data set has its own hash."""
        definition = {"name": self.name, "version": self.version, **asdict(self)}
        return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()

    def split(self, source: Any, seed: int) -> Parts:
        """Make the sets; ``seed`` draws the shots.

        Raises:
            ValueError: the data set does not suit the protocol, or holds fewer images than the shots asked
                for.
        """
        raise NotImplementedError

    def summary(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """What the protocol adds to the metrics ``SET/METRIC``, as fractions."""
        return {}


@dataclass(frozen=True, kw_only=True)
class _Shots(Protocol):
    """A protocol whose training images are a few shots a class.

    Attributes:
        shots: training images a class; 0 takes all.
        val_shots: validation images a class; by default min(shots, 4), or 4 where all images are trained on.

    Raises:
        ValueError: a number is out of its range.
    """

    shots: int = 16
    val_shots: int | None = None

    def __post_init__(self) -> None:
        if self.shots < 0:
            raise ValueError(f"protocol.shots ({self.shots}) must be at least 0; 0 takes all training images")
        if self.val_shots is not None and self.val_shots < 1:
            raise ValueError(f"protocol.val_shots ({self.val_shots}) must be at least 1, or None")

    def draw(self, source: Labelled, seed: int) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
        """The shots of all classes for training and for validation."""
        if not isinstance(source, Labelled):
            raise ValueError(f"protocol {self.name} needs a labelled data set, not {type(source).__name__}")
        val_shots = self.val_shots or min(self.shots or VAL_SHOTS, VAL_SHOTS)
        train, val = source.items["train"], source.items["val"]
        if self.shots:
            train = few_shot(train, self.shots, seed, names=source.names)
        return train, few_shot(val, val_shots, seed, names=source.names, option="protocol.val_shots")


@PROTOCOLS.register_module()
@dataclass(frozen=True, kw_only=True)
class FewShot(_Shots):
    """Train on a few shots of every class, test on all test images.

    What the test images show: on Glyphs with ``subgroups`` other objects than the shots and the validation
    images, by the same artist; with ``concepts`` the same drawings as the shots in other renderings (size,
    turn, place, background), since an artist has one drawing of an object; on ``SplitZhou`` other photos.

    Source: Zhou et al. 2022 (CoOp), section 4.1. Their shots come from a seeded shuffle; ours from a hash.
    """

    name: ClassVar[str] = "few_shot"

    def split(self, source: Labelled, seed: int) -> Parts:
        train, val = self.draw(source, seed)
        return Parts(
            source.images(train, augment=True),
            source.images(val),
            {"test": source.images(source.items["test"])},
        )


@PROTOCOLS.register_module()
@dataclass(frozen=True, kw_only=True)
class BaseToNew(_Shots):
    """Train on half of the classes, test on them and on the other half, each among themselves.

    The base classes are the first ceil(C / 2) labels. Shots are drawn over all classes before the new ones
    are dropped.

    What the test images show: on Glyphs with ``concepts`` the base images are other renderings of the
    drawings that the shots show, since an artist has one drawing of an object, and the new images show
    drawings that no shot shows: base accuracy measures fitting, new accuracy what the tuner keeps. With
    ``subgroups`` all test images show other objects than the shots; on ``SplitZhou`` other photos.

    Source: Zhou et al. 2022 (CoCoOp), section 4.1.
    """

    name: ClassVar[str] = "base_to_new"

    def split(self, source: Labelled, seed: int) -> Parts:
        train, val = self.draw(source, seed)
        base, new = halves(source.names)
        if not new:
            raise ValueError(f"protocol {self.name} needs at least two classes; {source.name} has {len(base)}")
        test = source.items["test"]
        return Parts(
            source.images(train, labels=base, augment=True),
            source.images(val, labels=base),
            {"base": source.images(test, labels=base), "new": source.images(test, labels=new)},
        )

    def summary(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The harmonic mean of base and new accuracy; 0 where both are."""
        base, new = metrics["base/accuracy"], metrics["new/accuracy"]
        return {"harmonic_mean": 2 * base * new / (base + new) if base + new else 0.0}


@PROTOCOLS.register_module()
@dataclass(frozen=True, kw_only=True)
class StyleShift(_Shots):
    """Train on one artist's drawings, test on those and on other artists' drawings of the same objects.

    The analogue of domain generalisation (ImageNet to its variants) on Glyphs. From ``flat``, ``fluent`` is a
    near shift (the same drawings with shading), the others are far. Each test is among all classes of the
    data set, also where a style lacks some of the drawings.

    What the test images show: with ``concepts`` the objects of the shots, in the data set's own style the
    very drawings of the shots in other renderings, in the others drawings by other hands. With
    ``subgroups`` other objects in every style.

    Attributes:
        targets: the styles that are tested beside the data set's own.

    Raises:
        ValueError: no target, a target twice, or an unknown style.
    """

    name: ClassVar[str] = "style_shift"
    targets: tuple[str, ...] = field(default=("fluent", "twemoji", "noto", "emojione"))

    def __post_init__(self) -> None:
        super().__post_init__()
        targets = tuple(self.targets)
        if not targets or len(set(targets)) < len(targets) or not set(targets) <= set(STYLES):
            raise ValueError(f"protocol.targets ({targets}) must be some of {', '.join(STYLES)}, each once")
        object.__setattr__(self, "targets", targets)

    def split(self, source: Labelled, seed: int) -> Parts:
        if not isinstance(source, Glyphs):
            raise ValueError(f"protocol {self.name} needs dataset.type='Glyphs', not {type(source).__name__}")
        if source.style in self.targets:
            raise ValueError(
                f"protocol.targets ({self.targets}) must not hold the style that is trained on: leave "
                f"{source.style!r} out, or set dataset.style to another"
            )
        train, val = self.draw(source, seed)
        tests = {style: source.in_style(style).items["test"] for style in (source.style, *self.targets)}
        return Parts(
            source.images(train, augment=True),
            source.images(val),
            {style: source.images(items) for style, items in tests.items()},
        )

    def summary(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The mean accuracy over the target styles."""
        each = [metrics[f"{style}/accuracy"] for style in self.targets]
        return {"target_mean": sum(each) / len(each)}


@PROTOCOLS.register_module()
@dataclass(frozen=True, kw_only=True)
class Pretraining(Protocol):
    """Train a tiny backbone on Glyphs; test it without adaptation on every concept it was trained on.

    One rendering of each concept in each style. Validation shows other renderings of one training style.

    What the test images show: in the training styles the drawings that were trained on, in new renderings;
    in ``flat`` and ``contrast`` drawings that no training image shows.
    """

    name: ClassVar[str] = "pretraining"

    def split(self, source: GlyphPairs, seed: int) -> Parts:
        if not isinstance(source, GlyphPairs):
            raise ValueError(f"protocol {self.name} needs dataset.type='GlyphPairs', not {type(source).__name__}")
        tests = (*PRETRAINING_STYLES, "flat", "contrast")
        return Parts(
            source,
            every_concept("twemoji", size=source.size, tag="val"),
            {style: every_concept(style, size=source.size) for style in tests},
        )

    def summary(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The mean accuracy over the styles that were trained on."""
        seen = [metrics[f"{style}/accuracy"] for style in PRETRAINING_STYLES]
        return {"seen_styles": sum(seen) / len(seen)}


@PROTOCOLS.register_module()
@dataclass(frozen=True, kw_only=True)
class Retrieval(Protocol):
    """Train on all captions of the training images; search texts by images and images by texts.

    What is reported is the recall among all images, and all texts, of the test part.

    Source: the splits of Karpathy and Fei-Fei 2015 on COCO and Flickr30K, as every retrieval paper uses them.

    Attributes:
        images: training images, drawn by the seed; 0 takes all, and the seed decides the training's course alone.

    Raises:
        ValueError: a negative number of images.
    """

    name: ClassVar[str] = "retrieval"
    images: int = 0

    def __post_init__(self) -> None:
        if self.images < 0:
            raise ValueError(f"protocol.images ({self.images}) must be at least 0; 0 takes all training images")

    def split(self, source: Captioned, seed: int) -> Parts:
        if not isinstance(source, Captioned):
            raise ValueError(f"protocol {self.name} needs a data set with captions, not {type(source).__name__}")
        train = source.items["train"]
        if self.images > len(train):
            raise ValueError(
                f"protocol.images ({self.images}) is more than the {len(train)} training images of {source.name}"
            )
        if self.images:
            drawn = sorted(train, key=lambda item: hashlib.sha256(f"{seed}/{item.image}".encode()).digest())
            train = tuple(drawn[: self.images])
        pairs = CaptionPairs(train, source.reader(augment=True))
        return Parts(pairs, source.gallery("val"), {"test": source.gallery("test")})


@PROTOCOLS.register_module()
@dataclass(frozen=True, kw_only=True)
class ScenePretraining(Protocol):
    """Train a tiny backbone on endless scenes; test it without adaptation on scenes that were held out.

    What the test images show: the scenes of ``GlyphScenes``, whose objects never meet in a training image, in
    the drawings of ``twemoji``, which training images show, and of ``flat``, which they do not.
    """

    name: ClassVar[str] = "scene_pretraining"

    def split(self, source: ScenePairs, seed: int) -> Parts:
        if not isinstance(source, ScenePairs):
            raise ValueError(f"protocol {self.name} needs dataset.type='ScenePairs', not {type(source).__name__}")
        seen, unseen = (GlyphScenes(style=style, image_size=source.size) for style in ("twemoji", "flat"))
        tests = {scenes.style: scenes.gallery("test") for scenes in (seen, unseen)}
        return Parts(source, seen.gallery("val"), tests)
