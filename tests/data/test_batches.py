"""Class names and batches."""

from __future__ import annotations

import pytest
import torch

from petl_zoo.data import ClassNames, collate


def sample(label: int, classes: ClassNames) -> dict[str, object]:
    return {"images": torch.full((3, 4, 4), float(label)), "labels": label, "classes": classes}


def test_equal_class_names_hash_alike() -> None:
    one, other = ClassNames(("cat", "dog")), ClassNames(("cat", "dog"))
    assert (one, hash(one), len(one)) == (other, hash(other), 2)
    assert one != ClassNames(("dog", "cat"))


@pytest.mark.parametrize(
    ("names", "templates", "problem"),
    [
        ((), ("{}",), "at least one name"),
        (("cat",), (), "one template"),
        (("cat",), ("a photo",), "'a photo' must hold '{}' once"),
        (("cat",), ("{} {}",), "must hold '{}' once"),
    ],
)
def test_what_makes_no_sentence_is_told(names: tuple[str, ...], templates: tuple[str, ...], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        ClassNames(names, templates)


def test_a_batch_is_what_the_model_takes() -> None:
    classes = ClassNames(("cat", "dog"))
    batch = collate([sample(1, classes), sample(0, ClassNames(("cat", "dog")))])
    assert batch["images"][:, 0, 0, 0].tolist() == [1.0, 0.0]
    assert batch["labels"].dtype == torch.long
    assert batch["labels"].tolist() == [1, 0]
    assert batch["classes"] is classes


def test_a_batch_of_two_class_lists_is_told() -> None:
    with pytest.raises(ValueError, match=r"must share their classes \(ClassNames\)"):
        collate([sample(0, ClassNames(("cat",))), sample(0, ClassNames(("dog",)))])


def test_each_kind_of_value_is_joined_in_its_way() -> None:
    shared = object()
    batch = collate([{"text": text, "number": number, "other": shared} for text, number in (("a", 3), ("b", 4))])
    assert batch["text"] == ["a", "b"]
    assert batch["number"].tolist() == [3, 4]
    assert batch["number"].dtype == torch.long
    assert batch["other"] is shared


def test_samples_of_different_keys_are_told() -> None:
    with pytest.raises(ValueError, match="must have the same keys, not a, b and a"):
        collate([{"a": 1, "b": 2}, {"a": 1}])
