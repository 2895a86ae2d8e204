"""Scenes of a few objects, and the English sentences that tell of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from .atlas import Concept, concept_index, concepts

__all__ = ["COUNTS", "KINDS", "PHRASES", "RELATIONS", "Scene", "plural", "tell"]

RELATIONS = ("left", "right", "above", "below")
COUNTS = ("2-1", "3-1")
KINDS = (*RELATIONS, *COUNTS)


@dataclass(frozen=True)
class Scene:
    """What one composed picture shows; its path spells it.

    Attributes:
        style: whose drawings are shown.
        kind: where ``a`` is seen from ``b``, one of ``RELATIONS``; or how many of each there are, one of
            ``COUNTS``: ``3-1`` is three of ``a`` and one of ``b``.
        a: id of one object's concept.
        b: id of the other's.
        colour: the background's, a key of ``PALETTE``.
        number: another number is another rendering of the same.
    """

    style: str
    kind: str
    a: str
    b: str
    colour: str
    number: int

    @property
    def path(self) -> str:
        """Such as ``flat/left/red-apple/dog/blue/17``."""
        return "/".join(map(str, (self.style, self.kind, self.a, self.b, self.colour, self.number)))

    @classmethod
    def from_path(cls, path: str) -> Scene:
        """Read a path.

        Raises:
            ValueError: it does not name a scene.
        """
        match path.split("/"):
            case [style, kind, a, b, colour, number] if (
                kind in KINDS and {a, b} <= concept_index().keys() and a != b and number.isdecimal()
            ):
                return cls(style, kind, a, b, colour, int(number))
        raise ValueError(
            f"scene path {path!r} must be style/kind/concept/concept/colour/number, of two concepts in glyphs.json and "
            f"a kind among {', '.join(KINDS)}"
        )

    @property
    def twin(self) -> Scene:
        """The scene with the objects swapped: a dog left of a cat, or three dogs and one cat instead of the reverse."""
        return replace(self, a=self.b, b=self.a)

    @property
    def counts(self) -> tuple[int, int]:
        """How many of ``a`` and of ``b``."""
        if self.kind in RELATIONS:
            return 1, 1
        first, _, second = self.kind.partition("-")
        return int(first), int(second)

    @property
    def content(self) -> tuple[str, str, str]:
        """What is told: kind and objects, the same for ``left`` as for ``right`` with the objects swapped."""
        if self.kind in ("right", "below"):
            return ("left" if self.kind == "right" else "above"), self.b, self.a
        return self.kind, self.a, self.b


# Every phrase tells the relation or the counts. {x} is the left, upper or more frequent object.
PHRASES = {
    "left": (
        "{x} to the left of {y}",
        "{y} to the right of {x}",
        "there is {x} to the left of {y}",
        "there is {y} to the right of {x}",
        "{x} on the left and {y} on the right",
        "{y} on the right and {x} on the left",
        "a photo of {x} left of {y}",
        "a photo of {y} right of {x}",
        "{x} is to the left of {y}",
        "{y} is to the right of {x}",
    ),
    "above": (
        "{x} above {y}",
        "{y} below {x}",
        "there is {x} above {y}",
        "there is {y} below {x}",
        "{x} at the top and {y} at the bottom",
        "{y} at the bottom and {x} at the top",
        "a photo of {x} over {y}",
        "a photo of {y} under {x}",
        "{x} is above {y}",
        "{y} is below {x}",
    ),
    "counts": (
        "{x} and {y}",
        "{y} and {x}",
        "there are {x} and {y}",
        "there is {y} with {x}",
        "{x} with {y}",
        "{y} with {x}",
        "a photo of {x} and {y}",
        "a photo of {y} and {x}",
        "a picture of {x} with {y}",
        "a picture of {y} with {x}",
    ),
}
NUM_PHRASES = 10
_NUMERALS = {2: "two", 3: "three"}


def tell(scene: Scene, phrase: int, *, colour: bool) -> str:
    """A caption.

    Args:
        scene: what is told of.
        phrase: 0 to ``NUM_PHRASES`` - 1; the same number tells the twin in the same words.
        colour: tell the background's colour too.
    """
    kind, a, b = scene.content
    x, y = (concepts()[concept_index()[name]] for name in (a, b))
    phrases = PHRASES.get(kind, PHRASES["counts"])
    count = scene.counts[0]
    first = x.noun if count == 1 else f"{_NUMERALS[count]} {plural(x.name)}"
    text = phrases[phrase].format(x=first, y=y.noun)
    return f"{text}{background(scene.colour)}" if colour else text


def background(colour: str) -> str:
    """How a caption goes on when it tells the background's colour."""
    return f" on {'an' if colour[0] in 'aeiou' else 'a'} {colour} background"


_IRREGULAR = {
    "deer": "deer",
    "fish": "fish",
    "knife": "knives",
    "leaf": "leaves",
    "mouse": "mice",
    "ox": "oxen",
    "potato": "potatoes",
    "sheep": "sheep",
    "squid": "squid",
    "tomato": "tomatoes",
    "wolf": "wolves",
}


def plural(name: str) -> str:
    """The plural of a countable name whose last word is its head, as all names in ``scene_concepts`` are."""
    rest, blank, head = name.rpartition(" ")
    if head in _IRREGULAR:
        head = _IRREGULAR[head]
    elif re.search(r"[^aeiou]y$", head):
        head = f"{head[:-1]}ies"
    else:
        head += "es" if re.search(r"(s|x|z|ch|sh)$", head) else "s"
    return rest + blank + head


def countable(concept: Concept) -> bool:
    """Whether ``tell`` can put the concept in the singular and the plural."""
    return bool(concept.article) and not {"of", "with", "and", "on", "in"} & set(concept.name.split())
