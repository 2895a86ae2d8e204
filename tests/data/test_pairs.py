"""What pretraining sees: right names, no class twice in a batch, views that become free, and one seed one batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from petl_zoo.data import GlyphPairs, collate
from petl_zoo.data.glyphs import View, concepts
from petl_zoo.data.glyphs.pairs import PRETRAINING_STYLES, TEMPLATES


def batch(pairs: GlyphPairs, size: int = 32) -> dict[str, Any]:
    return collate(pairs.__getitems__(range(size)))


def test_it_draws_every_pretraining_drawing_and_no_other() -> None:
    pairs = GlyphPairs(length=8)
    drawn = sum(c.pretrain and style in c.styles for c in concepts() for style in PRETRAINING_STYLES)
    assert len(pairs.labels) == len(pairs.glyphs) == drawn
    assert len(pairs.classes) == 692
    assert not {"flat", "contrast"} & set(PRETRAINING_STYLES)
    assert bool((pairs.glyphs[:, 3].float().mean((1, 2)) >= 8).all())
    assert len(pairs) == 8


def test_one_seed_one_batch() -> None:
    pairs = GlyphPairs(length=8)
    torch.manual_seed(3)
    one, other = batch(pairs), batch(pairs)
    torch.manual_seed(3)
    same = batch(pairs)
    assert torch.equal(one["images"], same["images"])
    assert torch.equal(one["labels"], same["labels"])
    assert one["classes"] == same["classes"]
    assert not torch.equal(one["images"], other["images"])


def test_an_index_says_nothing() -> None:
    pairs = GlyphPairs(length=8)
    torch.manual_seed(0)
    one = pairs[0]
    torch.manual_seed(0)
    other = pairs[5]
    assert torch.equal(one["images"], other["images"])
    assert one["classes"].names[one["labels"]] == other["classes"].names[other["labels"]]


def test_names_are_distinct_and_labels_right() -> None:
    pairs = GlyphPairs(length=8, template_share=0, subgroup_share=0, negatives=40)
    torch.manual_seed(0)
    for _ in range(20):
        labels = torch.randint(len(pairs.classes), (64,))
        places, classes = pairs._name(labels)
        assert len(set(classes.names)) == len(classes.names)
        own = len(set(labels.tolist()))
        assert own <= len(classes) <= own + 40
        assert [classes.names[place] for place in places] == [pairs.classes.names[label] for label in labels]
        assert classes.templates == ("{}",)


def test_a_drawing_is_labelled_with_its_own_name() -> None:
    """Every image of one drawing's style and place carries that concept's name."""
    pairs = GlyphPairs(length=8, styles=("noto",), template_share=0, subgroup_share=0)
    pairs.glyphs, pairs.labels = pairs.glyphs[7:8], pairs.labels[7:8]
    seen = [c for c in concepts() if c.pretrain and "noto" in c.styles]
    for sample in pairs.__getitems__(range(4)):
        assert sample["classes"].names[sample["labels"]] == seen[7].name


def test_subgroups_are_classes_of_their_own() -> None:
    pairs = GlyphPairs(length=8, template_share=0, subgroup_share=1.0)
    torch.manual_seed(0)
    labels = torch.randint(len(pairs.classes), (64,))
    places, classes = pairs._name(labels)
    kind_of = {concept.name: concept.kind for concept in concepts()}
    assert len(set(classes.names)) == len(classes.names)
    assert [classes.names[p] for p in places] == [kind_of[pairs.classes.names[label]] for label in labels]
    assert classes.templates[0] in TEMPLATES


def test_the_shares_of_templates_and_subgroups() -> None:
    pairs = GlyphPairs(length=8, template_share=0.5, subgroup_share=0.2)
    torch.manual_seed(0)
    found = [pairs._name(torch.arange(4))[1] for _ in range(600)]
    subgroups = sum(names.names == tuple(pairs.kinds) for names in found) / 600
    bare = sum(names.templates == ("{}",) for names in found) / 600
    assert subgroups == pytest.approx(0.2, abs=0.05)
    assert bare == pytest.approx(0.3, abs=0.06)
    assert {names.templates[0] for names in found} == {"{}", *TEMPLATES}


def test_views_become_free_while_training_runs() -> None:
    pairs = GlyphPairs(length=8, ramp=0.5, jitter=0.4)
    full = View(jitter=0.4)
    assert pairs.view == full  # without being told how far training is
    pairs.set_epoch(0, 10)
    assert (pairs.view.scale, pairs.view.rotation, pairs.view.jitter) == ((1.0, 1.0), 0.0, 0.0)
    rotations = []
    for epoch in range(6):
        pairs.set_epoch(epoch, 10)
        rotations.append(pairs.view.rotation)
    assert rotations == pytest.approx([15 * epoch / 5 for epoch in range(6)])
    pairs.set_epoch(9, 10)
    assert pairs.view == full
    pairs.ramp = 0
    pairs.set_epoch(0, 10)
    assert pairs.view == full


@pytest.mark.parametrize("styles", [(), ("noto", "notto")])
def test_unknown_styles_are_told(styles: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"dataset.styles .* must be some of twemoji"):
        GlyphPairs(length=8, styles=styles)
