"""From a template and class names to ids, slots and what all texts share."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from petl_zoo.backbones import TextBatch, tokenize


class Letters:
    """One id a word by its first letter, so that ids can be read: "cat" is 3. Words of two parts take two ids."""

    start, end, pad, context_length = 40, 41, 0, 12

    def encode(self, text: str) -> list[int]:
        words = text.replace("-", " ").replace(".", " .").split()
        return [30 if word == "." else ord(word[0]) - ord("a") + 1 for word in words]


A, C, D, OF, P, DOT, SOT, EOT = 1, 3, 4, 15, 16, 30, 40, 41


def texts(template: str, *names: str) -> TextBatch:
    return tokenize(Letters(), template, names)


def check(
    batch: TextBatch, rows: Sequence[Sequence[int]], slots: Sequence[Sequence[int]], shared: int, inside: int
) -> None:
    assert batch.ids.tolist() == [list(row) for row in rows]
    assert batch.slots.tolist() == [list(row) for row in slots]
    assert batch.end.tolist() == [list(row).index(EOT) for row in rows]
    assert (batch.shared, batch.shared_slots) == (shared, inside)
    assert batch.leading == all(list(row) == list(range(1, len(row) + 1)) for row in slots)
    assert batch.total == sum(list(row).index(EOT) + 1 for row in rows)


def test_without_slots() -> None:
    rows = [[SOT, A, P, OF, C, DOT, EOT], [SOT, A, P, OF, D, DOT, EOT]]
    check(texts("a photo of {}.", "cat", "dog"), rows, [[], []], shared=4, inside=0)


def test_slots_in_front_are_shared() -> None:
    rows = [[SOT, 0, 0, OF, C, DOT, EOT], [SOT, 0, 0, OF, D, DOT, EOT]]
    check(texts("[V] [V] of {}.", "cat", "dog"), rows, [[1, 2]] * 2, shared=4, inside=2)


def test_slots_behind_names_of_different_length() -> None:
    rows = [[SOT, C, 0, 0, DOT, EOT, 0], [SOT, D, 8, 0, 0, DOT, EOT]]
    check(texts("{} [V] [V].", "cat", "dog house"), rows, [[2, 3], [3, 4]], shared=1, inside=0)


def test_slots_on_both_sides() -> None:
    rows = [[SOT, 0, C, 0, DOT, EOT, 0], [SOT, 0, D, 8, 0, DOT, EOT]]
    check(texts("[V] {} [V].", "cat", "dog house"), rows, [[1, 3], [1, 4]], shared=2, inside=1)


def test_one_class_shares_all_but_its_end() -> None:
    check(texts("[V] {}", "cat"), [[SOT, 0, C, EOT]], [[1]], shared=3, inside=1)


def test_a_name_that_begins_another() -> None:
    """What is shared ends before the first end token, so that each text keeps a token of its own."""
    rows = [[SOT, A, C, EOT, 0], [SOT, A, C, D, EOT]]
    check(texts("a {}", "cat", "cat dog"), rows, [[], []], shared=3, inside=0)


def test_equal_names() -> None:
    check(texts("a {}", "cat", "cat"), [[SOT, A, C, EOT]] * 2, [[], []], shared=3, inside=0)


def test_a_slot_and_a_pad_of_equal_id_are_no_shared_token() -> None:
    """The slot's id is the pad's, and "z" could be too: what decides is which of them is a slot."""

    class Zero(Letters):
        def encode(self, text: str) -> list[int]:
            return [0 if word == "zero" else 5 for word in text.split()]

    batch = tokenize(Zero(), "{} [V]", ["zero", "zero zero"])
    assert batch.ids.tolist() == [[SOT, 0, 0, EOT, 0], [SOT, 0, 0, 0, EOT]]
    assert batch.shared == 2


def test_underscores_are_blanks() -> None:
    assert torch.equal(texts("a {}.", "polar_bear").ids, texts("a {}.", "polar bear").ids)


def test_padded_is_the_same_text_with_nothing_shared() -> None:
    batch = texts("[V] {}.", "cat", "dog house")
    padded = batch.padded(12, 0)
    assert padded.ids.shape == (2, 12)
    assert torch.equal(padded.ids[:, : batch.ids.shape[1]], batch.ids)
    assert padded.ids[:, batch.ids.shape[1] :].abs().max() == 0
    assert (padded.shared, padded.shared_slots) == (0, 0)
    assert torch.equal(padded.end, batch.end)


def test_on_its_own_device_a_batch_is_itself() -> None:
    batch = texts("a {}.", "cat")
    assert batch.to(torch.device("cpu")) is batch
    moved = batch.to(torch.device("meta"))
    assert {moved.ids.device.type, moved.slots.device.type, moved.end.device.type} == {"meta"}


def test_the_longest_text_that_fits() -> None:
    assert texts("{}", " ".join(["a"] * 10)).ids.shape == (1, 12)
    with pytest.raises(ValueError, match=r"the prompt 'of a a a a a a a a a a' has 13 tokens.*at most 12.*shorten"):
        texts("of {}", "cat", " ".join(["a"] * 10))


def test_no_names() -> None:
    with pytest.raises(ValueError, match="no class names"):
        texts("a {}.")


@pytest.mark.parametrize("template", ["a photo", "{} and {}", "a {name}", "a {} {name}", "a {{}}"])
def test_a_template_has_one_place_for_the_name(template: str) -> None:
    with pytest.raises(ValueError, match=r"must have one '\{\}'"):
        texts(template, "cat")
