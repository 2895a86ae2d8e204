"""The class names that a batch is compared with."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ClassNames"]


@dataclass(frozen=True)
class ClassNames:
    """Names of the classes, in the order of the labels, and the sentences they are put into.

    Frozen and hashable, so that what is computed from it can be remembered.

    Attributes:
        names: one name a class.
        templates: format strings with one ``{}``, such as ``a photo of a {}.``; several are averaged.

    Raises:
        ValueError: there is no name or no template, or a template has no ``{}``.
    """

    names: tuple[str, ...]
    templates: tuple[str, ...] = ("a photo of a {}.",)

    def __post_init__(self) -> None:
        if not self.names or not self.templates:
            raise ValueError("ClassNames needs at least one name and one template")
        for template in self.templates:
            if template.count("{}") != 1:
                raise ValueError(f"the template {template!r} must hold '{{}}' once, where the class name goes")

    def __len__(self) -> int:
        return len(self.names)
