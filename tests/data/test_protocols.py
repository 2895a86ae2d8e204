"""Protocols: what each set holds, that none shares an image with another, and that a change of one is noticed."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from itertools import combinations
from typing import Any

import pytest

from petl_zoo.data import (
    BaseToNew,
    FewShot,
    GlyphPairs,
    Glyphs,
    GlyphScenes,
    Images,
    Labelled,
    Parts,
    Pretraining,
    Protocol,
    Retrieval,
    ScenePairs,
    ScenePretraining,
    SplitZhou,
    StyleShift,
)
from petl_zoo.data.glyphs import STYLES, concepts

FULL = ("twemoji", "noto", "fluent", "flat", "contrast")  # styles that draw every object of the splits

# A hash that differs from the one here means that records made before and after are not comparable: if the
# protocol means something else now, raise its version and change the hash here.
HASHES: dict[type[Protocol], str] = {
    FewShot: "d2fb34b07c3a301f7da20eeb663c211b5cc18e4c235ba533d318ef6954001b80",
    BaseToNew: "6c346e2f9b7c40219bdd79242741251919f92f954f8079a6269560e3b93d6b3b",
    StyleShift: "8ef6d30697962cd20d4bca86d2e282c66393a8dd8d5d95730e3f828f13250487",
    Pretraining: "a8f5525756b45e73f2462548071b28176cdf6c4be8cc5a66fb7036e34f6d2411",
    Retrieval: "3daf4bb47025af5f620851a03664bd38cd27f7ac75b0d151f43cf2b1b7ec7720",
    ScenePretraining: "9a36928ebc1eee35d1197b476c2c0aca02af2a48ef3011fee7ad989418e7f966",
}
DATA_HASHES = {
    "concepts": "dd3a1b30128483052005f718e2445819e2f1b9295bc69f2e450b2ef464fb1478",
    "subgroups": "a2afad3c5b7e66c84b389483ed869293b58889a8b4535977f788394289d4ea6c",
}


def sets(parts: Parts) -> dict[str, Images]:
    assert isinstance(parts.train, Images)
    assert parts.val is not None
    return {"train": parts.train, "val": parts.val, **parts.test}


def paths(images: Images) -> set[str]:
    return {item.path for item in images.items}


def shown(images: Images) -> set[str]:
    return {item.path.split("/")[1] for item in images.items}


class TestIdentity:
    @pytest.mark.parametrize("protocol", HASHES)
    def test_the_hash_is_the_published_one(self, protocol: type[Protocol]) -> None:
        assert (protocol.version, protocol().hash) == (1, HASHES[protocol])

    @pytest.mark.parametrize("classes", DATA_HASHES)
    def test_the_data_are_the_published_ones(self, classes: str) -> None:
        assert Glyphs(classes=classes).hash == DATA_HASHES[classes]

    def test_options_change_the_hash_and_lists_do_not(self) -> None:
        protocols = [FewShot(), FewShot(shots=8), FewShot(val_shots=2), BaseToNew(), StyleShift(targets=("noto",))]
        assert len({protocol.hash for protocol in protocols}) == len(protocols)
        listed: Any = ["noto", "fluent"]  # as a config has it
        assert StyleShift(targets=listed).hash == StyleShift(targets=("noto", "fluent")).hash

    def test_names_are_distinct(self) -> None:
        assert len({protocol.name for protocol in HASHES}) == len(HASHES)

    def test_it_is_frozen(self) -> None:
        with pytest.raises(FrozenInstanceError):
            FewShot().shots = 1  # type: ignore[misc]

    @pytest.mark.parametrize(
        ("protocol", "options", "problem"),
        [
            (FewShot, {"shots": -1}, r"protocol.shots \(-1\) must be at least 0"),
            (BaseToNew, {"val_shots": 0}, r"protocol.val_shots \(0\) must be at least 1"),
            (StyleShift, {"targets": ()}, r"protocol.targets \(\(\)\) must be some of"),
            (StyleShift, {"targets": ("noto", "openmoji")}, "must be some of twemoji, noto"),
            (StyleShift, {"targets": ("noto", "noto")}, "each once"),
        ],
    )
    def test_bad_options_are_told(self, protocol: Any, options: dict[str, Any], problem: str) -> None:
        with pytest.raises(ValueError, match=problem):
            protocol(**options)


class TestSets:
    @pytest.mark.parametrize("protocol", [FewShot(), BaseToNew(), StyleShift(), FewShot(shots=1), FewShot(shots=0)])
    @pytest.mark.parametrize("classes", ["concepts", "subgroups"])
    def test_no_image_is_in_two_sets(self, protocol: Protocol, classes: str) -> None:
        for one, other in combinations(sets(protocol.split(Glyphs(classes=classes), seed=1)).values(), 2):
            assert not paths(one) & paths(other)

    @pytest.mark.parametrize("style", FULL)
    @pytest.mark.parametrize("protocol", [FewShot(), BaseToNew()])
    def test_subgroups_are_tested_on_other_objects(self, style: str, protocol: Protocol) -> None:
        parts = protocol.split(Glyphs(classes="subgroups", style=style), seed=1)
        assert parts.val is not None
        for images in parts.test.values():
            assert not shown(images) & (shown(parts.train) | shown(parts.val))  # type: ignore[arg-type]
        assert not shown(parts.train) & shown(parts.val)  # type: ignore[arg-type]

    def test_few_shot_sizes(self) -> None:
        for shots, val in ((1, 1), (2, 2), (4, 4), (8, 4), (16, 4), (0, 4)):
            made = sets(FewShot(shots=shots).split(Glyphs(), seed=1))
            assert [len(images) for images in made.values()] == [80 * (shots or 16), 80 * val, 960]

    def test_the_seed_draws_the_shots_and_not_the_test(self) -> None:
        one, same, other = (sets(FewShot(shots=4).split(Glyphs(classes="subgroups"), seed)) for seed in (1, 1, 2))
        assert {name: images.items for name, images in one.items()} == {n: s.items for n, s in same.items()}
        assert one["train"].items != other["train"].items
        assert one["test"].items == other["test"].items

    @pytest.mark.parametrize("classes", ["concepts", "subgroups"])
    def test_base_and_new(self, classes: str) -> None:
        source = Glyphs(classes=classes)
        made = sets(BaseToNew().split(source, seed=1))
        count = len(source.names)
        base, new = made["base"].classes, made["new"].classes
        assert (len(base), len(new)) == ((count + 1) // 2, count // 2)
        assert base.names + new.names == tuple(source.names[label] for label in range(count))
        assert made["train"].classes == made["val"].classes == base
        for images in made.values():
            assert {item.label for item in images.items} == set(range(len(images.classes)))

    def test_the_shots_of_the_base_classes_are_those_of_few_shot(self) -> None:
        source = Glyphs()
        few, base = (sets(p.split(source, seed=3))["train"] for p in (FewShot(shots=2), BaseToNew(shots=2)))
        assert paths(base) == {item.path for item in few.items if item.label < 40}

    @pytest.mark.parametrize("classes", ["concepts", "subgroups"])
    def test_labels_name_what_is_shown(self, classes: str) -> None:
        name_of = {c.id: c.name if classes == "concepts" else c.kind for c in concepts()}
        for protocol in (FewShot(), BaseToNew(), StyleShift()):
            for images in sets(protocol.split(Glyphs(classes=classes), seed=1)).values():
                for item in images.items:
                    assert images.classes.names[item.label] == name_of[item.path.split("/")[1]]

    @pytest.mark.parametrize("classes", ["concepts", "subgroups"])
    def test_every_style_is_tested_among_the_same_classes(self, classes: str) -> None:
        source = Glyphs(classes=classes)
        parts = StyleShift(targets=tuple(style for style in STYLES if style != "flat")).split(source, seed=1)
        assert parts.test.keys() == set(STYLES)
        for style, images in parts.test.items():
            assert images.classes == parts.train.classes  # type: ignore[attr-defined]
            assert {item.path.split("/")[0] for item in images.items} == {style}
        assert len(parts.test["emojione"]) <= len(parts.test["twemoji"]) == len(parts.test["flat"])

    def test_pretraining_tests_every_style(self) -> None:
        parts = Pretraining().split(GlyphPairs(length=8), seed=1)
        assert parts.test.keys() == set(STYLES)
        assert {style: len(images) for style, images in parts.test.items()}["twemoji"] == 692
        for images in parts.test.values():
            assert not paths(images) & paths(parts.val)  # type: ignore[arg-type]

    def test_retrieval_trains_on_captions_and_tests_on_galleries(self) -> None:
        parts = Retrieval().split(GlyphScenes(image_size=16), seed=1)
        assert parts.test.keys() == {"test"}
        assert (len(parts.train), len(parts.val), len(parts.test["test"])) == (10000, 200, 400)  # type: ignore[arg-type]
        assert parts.train.read.augment  # type: ignore[attr-defined]
        assert not parts.test["test"].read.augment  # type: ignore[attr-defined]
        assert parts.test["test"].gallery.num_images == 400  # type: ignore[union-attr]

    def test_scene_pretraining_tests_a_seen_and_an_unseen_style(self) -> None:
        pairs = ScenePairs(length=8, size=16)
        parts = ScenePretraining().split(pairs, seed=1)
        assert parts.train is pairs
        assert {style: len(images) for style, images in parts.test.items()} == {"twemoji": 400, "flat": 400}
        for style, images in parts.test.items():
            assert {item[0].split("/")[0] for item in images.items} == {style}
            assert images[0]["images"].shape == (3, 16, 16)
        assert len(parts.val) == 200  # type: ignore[arg-type]


class TestUnsuitedData:
    @pytest.mark.parametrize("protocol", [FewShot(), BaseToNew()])
    def test_pairs_have_no_labels(self, protocol: Protocol) -> None:
        with pytest.raises(ValueError, match="needs a labelled data set, not GlyphPairs"):
            protocol.split(GlyphPairs(length=8), seed=1)

    def test_style_shift_needs_styles(self) -> None:
        with pytest.raises(ValueError, match=r"needs dataset\.type='Glyphs', not SplitZhou"):
            StyleShift().split(SplitZhou.__new__(SplitZhou), seed=1)

    def test_pretraining_needs_pairs(self) -> None:
        with pytest.raises(ValueError, match=r"needs dataset\.type='GlyphPairs', not Glyphs"):
            Pretraining().split(Glyphs(), seed=1)  # type: ignore[arg-type]

    def test_retrieval_may_train_on_some_images_which_the_seed_draws(self) -> None:
        source = GlyphScenes(image_size=16)
        parts = [Retrieval(images=40).split(source, seed=seed).train for seed in (1, 1, 2)]
        drawn = [{item.image for item in part.items} for part in parts]  # type: ignore[attr-defined]
        assert [len(images) for images in drawn] == [40, 40, 40]
        assert drawn[0] == drawn[1] != drawn[2]
        with pytest.raises(ValueError, match=r"protocol\.images \(3000\) is more than the 2000"):
            Retrieval(images=3000).split(source, seed=1)
        with pytest.raises(ValueError, match=r"protocol\.images"):
            Retrieval(images=-1)

    def test_retrieval_needs_captions(self) -> None:
        with pytest.raises(ValueError, match="needs a data set with captions, not Glyphs"):
            Retrieval().split(Glyphs(), seed=1)  # type: ignore[arg-type]

    def test_scene_pretraining_needs_scene_pairs(self) -> None:
        with pytest.raises(ValueError, match=r"needs dataset\.type='ScenePairs', not GlyphScenes"):
            ScenePretraining().split(GlyphScenes(), seed=1)  # type: ignore[arg-type]

    def test_the_trained_style_is_no_target(self) -> None:
        with pytest.raises(ValueError, match="must not hold the style that is trained on: leave 'noto' out"):
            StyleShift().split(Glyphs(style="noto"), seed=1)

    def test_a_style_that_lacks_objects_lists_the_classes(self) -> None:
        with pytest.raises(ValueError, match=r"protocol.shots \(16\): \d+ of 41 classes .*medical object \(8\)"):
            FewShot().split(Glyphs(classes="subgroups", style="emojione"), seed=1)

    def test_one_class_has_no_halves(self) -> None:
        source = Labelled()
        source.name, source.templates = "one", ("{}",)
        source.items = {part: Glyphs().items[part][:4] for part in ("train", "val", "test")}
        with pytest.raises(ValueError, match="needs at least two classes; one has 1"):
            BaseToNew(shots=1).split(source, seed=1)


class TestSummary:
    def test_harmonic_mean(self) -> None:
        summary = BaseToNew().summary({"base/accuracy": 0.8, "new/accuracy": 0.6})
        assert summary == {"harmonic_mean": pytest.approx(2 * 0.8 * 0.6 / 1.4)}
        assert BaseToNew().summary({"base/accuracy": 0.5, "new/accuracy": 0.0}) == {"harmonic_mean": 0.0}
        assert BaseToNew().summary({"base/accuracy": 0.0, "new/accuracy": 0.0}) == {"harmonic_mean": 0.0}

    def test_target_mean_leaves_the_trained_style_out(self) -> None:
        metrics = {"flat/accuracy": 1.0, "noto/accuracy": 0.2, "fluent/accuracy": 0.6, "noto/top5": 1.0}
        assert StyleShift(targets=("noto", "fluent")).summary(metrics) == {"target_mean": pytest.approx(0.4)}

    def test_seen_styles(self) -> None:
        metrics = {f"{style}/accuracy": float(style in ("noto", "fluent")) for style in STYLES}
        assert Pretraining().summary({**metrics, "flat/accuracy": 1.0}) == {"seen_styles": pytest.approx(0.4)}

    def test_few_shot_adds_nothing(self) -> None:
        assert FewShot().summary({"test/accuracy": 0.5}) == {}
