"""Scenes: sentences that are right, objects that lie where the path says, parts that share nothing."""

from __future__ import annotations

import json
from collections import Counter
from itertools import combinations

import pytest
import torch

from petl_zoo.data import CaptionItem, GlyphScenes
from petl_zoo.data.glyphs import STYLES, concept_index, concepts
from petl_zoo.data.glyphs.atlas import FOLDER
from petl_zoo.data.glyphs.compose import PALETTE, SCENE_DRAWS, TEST_FREEDOM, layout, visible_on
from petl_zoo.data.glyphs.grammar import COUNTS, KINDS, NUM_PHRASES, PHRASES, RELATIONS, Scene, plural, tell
from petl_zoo.data.glyphs.scenes import SceneReader, _found, control_recall, scene_concepts
from tools.build_scenes import drawn_up, rows

# A hash that differs means that records made before and after are not comparable.
HASH = "401bd258213a9f45bea539c8e0dde13b760fcfb402c0ff7b799b7e2cd13456cd"
PATHS = ("flat/left/red-apple/dog/blue/17", "noto/3-1/cat/owl/white/2", "twemoji/below/fox/key/pink/0")


def scene(kind: str, a: str = "fox", b: str = "owl") -> Scene:
    return Scene("flat", kind, a, b, "orange", 7)


class TestGrammar:
    @pytest.mark.parametrize(
        ("one", "many"),
        [
            ("cat", "cats"), ("fox", "foxes"), ("bus", "buses"), ("computer mouse", "computer mice"),
            ("strawberry", "strawberries"), ("monkey", "monkeys"), ("kitchen knife", "kitchen knives"),
            ("maple leaf", "maple leaves"), ("wine glass", "wine glasses"), ("wrench", "wrenches"), ("sheep", "sheep"),
            ("paintbrush", "paintbrushes"), ("tomato", "tomatoes"), ("burrito", "burritos"), ("ox", "oxen"),
        ],
    )  # fmt: skip
    def test_plurals(self, one: str, many: str) -> None:
        assert plural(one) == many

    @pytest.mark.parametrize(
        ("kind", "phrase", "text"),
        [
            ("left", 0, "a fox to the left of an owl"),
            ("left", 1, "an owl to the right of a fox"),
            ("right", 0, "an owl to the left of a fox"),
            ("above", 5, "an owl at the bottom and a fox at the top"),
            ("below", 1, "a fox below an owl"),
            ("2-1", 1, "an owl and two foxes"),
            ("3-1", 2, "there are three foxes and an owl"),
        ],
    )
    def test_sentences(self, kind: str, phrase: int, text: str) -> None:
        assert tell(scene(kind), phrase, colour=False) == text
        assert tell(scene(kind), phrase, colour=True) == f"{text} on an orange background"

    def test_every_phrase_tells_a_scene_from_its_twin(self) -> None:
        assert {len(phrases) for phrases in PHRASES.values()} == {NUM_PHRASES}
        for kind in KINDS:
            told = {tell(scene(kind), phrase, colour=False) for phrase in range(NUM_PHRASES)}
            foils = {tell(scene(kind).twin, phrase, colour=False) for phrase in range(NUM_PHRASES)}
            assert len(told) == len(foils) == NUM_PHRASES
            assert not told & foils

    def test_left_and_right_tell_the_same(self) -> None:
        assert scene("left").content == scene("right").twin.content != scene("right").content
        assert scene("above").content == scene("below").twin.content
        assert scene("2-1").content != scene("2-1").twin.content

    @pytest.mark.parametrize("path", PATHS)
    def test_a_path_spells_its_scene(self, path: str) -> None:
        assert Scene.from_path(path).path == path
        assert Scene.from_path(path).twin.twin.path == path

    @pytest.mark.parametrize(
        "path",
        ["flat/left/fox/owl/blue", "flat/near/fox/owl/blue/1", "flat/left/fox/owls/blue/1", "flat/left/fox/fox/blue/1"],
    )
    def test_a_path_of_no_scene_is_told(self, path: str) -> None:
        with pytest.raises(ValueError, match="must be style/kind/concept/concept/colour/number"):
            Scene.from_path(path)


class TestPictures:
    @pytest.mark.parametrize("kind", KINDS)
    def test_objects_lie_where_the_kind_says_and_clear_of_each_other(self, kind: str) -> None:
        torch.manual_seed(0)
        count = 200
        matrices, owner, ids = layout([scene(kind)] * count, torch.rand(count, SCENE_DRAWS), TEST_FREEDOM)
        each = sum(scene(kind).counts)
        assert owner.tolist() == [index for index in range(count) for _ in range(each)]
        assert Counter(ids) == dict(zip(("fox", "owl"), (n * count for n in scene(kind).counts), strict=True))
        # The centre is the point of the image that is the origin of the glyph.
        centres = -torch.linalg.solve(matrices[:, :, :2], matrices[:, :, 2]).unflatten(0, (count, each))
        scale = matrices[:, :, :2].det().abs().rsqrt()  # of a glyph's side to the image's
        assert scale.min() >= 26 / 64 - 1e-5
        assert (centres.flatten(0, 1).abs().amax(1) + scale).max() < 1  # upright squares stay inside
        if kind in RELATIONS:
            axis, sign = {"left": (0, -1), "right": (0, 1), "above": (1, -1), "below": (1, 1)}[kind]
            apart = sign * (centres[:, 0] - centres[:, 1])
            assert apart[:, axis].min() > 2 * 26 / 64
            assert (apart[:, axis] > 1.2 * apart[:, 1 - axis].abs()).all()
        for one, other in combinations(range(each), 2):
            assert (centres[:, one] - centres[:, other]).abs().amax(1).min() > 2 * 26 / 64

    def test_a_path_decides_its_image(self) -> None:
        read = SceneReader(size=32)
        torch.manual_seed(0)
        state = torch.get_rng_state()
        first = read(PATHS)
        assert torch.equal(state, torch.get_rng_state())
        torch.testing.assert_close(first, torch.cat([read([path]) for path in PATHS]), rtol=0, atol=1e-6)
        assert not torch.allclose(first[:1], read(["flat/left/red-apple/dog/blue/18"]), atol=0.1)

    def test_training_moves_objects_and_keeps_the_relation(self) -> None:
        torch.manual_seed(0)
        paths = ["flat/left/red-apple/panda/white/1"] * 20
        still, moved = (SceneReader(size=64, augment=augment)(paths) for augment in (False, True))
        assert (moved[0] - moved[1]).abs().max() > 0.5
        red = (still[:, 0] - still[:, 1]) > 1, (moved[:, 0] - moved[:, 1]) > 1
        for mask in red:  # nothing but the apple is red, and it stays on the left
            assert mask[:, :, :32].sum((1, 2)).min() > 100
            assert mask[:, :, 36:].sum((1, 2)).max() < 20

    @pytest.mark.parametrize(
        "path", ["flt/left/fox/owl/blue/1", "flat/left/fox/owl/black/1", "noto1/left/otter/owl/blue/1"]
    )
    def test_what_cannot_be_drawn_is_told(self, path: str) -> None:
        with pytest.raises(ValueError, match=r"must name a style .*, concepts that it draws, and a colour"):
            SceneReader()([path])


class TestData:
    def test_the_tool_makes_the_shipped_files(self) -> None:
        for part, scenes in drawn_up().items():
            assert json.loads((FOLDER / f"scenes_{part}.json").read_text()) == rows(scenes)

    def test_the_data_are_the_published_ones(self) -> None:
        assert GlyphScenes().hash == HASH
        assert len({GlyphScenes().hash, GlyphScenes(style="noto").hash, GlyphScenes(image_size=48).hash}) == 3

    def test_sizes_and_twins(self) -> None:
        data = GlyphScenes()
        assert {part: len(items) for part, items in data.items.items()} == {"train": 2000, "val": 200, "test": 400}
        for part, items in data.items.items():
            paths = {item.image for item in items}
            assert len(paths) == len({item.image_id for item in items}) == len(items)
            twins = sum(Scene.from_path(path).twin.path in paths for path in paths)
            assert twins == len(items) / 2
            kinds = Counter(Scene.from_path(path).kind for path in paths)
            assert min(kinds[kind] for kind in KINDS) > 0.08 * len(items)
            assert 0.2 < sum(kinds[kind] for kind in COUNTS) / len(items) < 0.4
            assert len(data.foils(part)) == 5 * len(items)

    def test_objects_that_meet_in_one_part_meet_in_no_other(self) -> None:
        met = [{frozenset(item.image.split("/")[2:4]) for item in items} for items in GlyphScenes().items.values()]
        for one, other in combinations(met, 2):
            assert not one & other

    def test_captions_are_true_and_distinct(self) -> None:
        for items in GlyphScenes().items.values():
            for item in items:
                shown = Scene.from_path(item.image)
                every = {tell(shown, phrase, colour=colour) for phrase in range(NUM_PHRASES) for colour in (0, 1)}
                assert len(set(item.captions)) == 5
                assert set(item.captions) <= every
                assert sum(caption.endswith(f" {shown.colour} background") for caption in item.captions) == 2

    def test_a_foil_tells_the_twin_in_the_same_words(self) -> None:
        data = GlyphScenes()
        gallery = data.gallery("test").gallery
        assert sum(foil >= 0 for foil in gallery.foils) == 1000
        for text, foil in enumerate(gallery.foils):
            if foil >= 0:
                assert gallery.foils[foil] == text
                assert gallery.captions[text] != gallery.captions[foil]
                ours, theirs = (Scene.from_path(data.items["test"][gallery.image_of[t]].image) for t in (text, foil))
                assert ours.twin == theirs

    def test_every_style_draws_every_scene_visibly(self) -> None:
        colours = list(PALETTE)
        for items in GlyphScenes().items.values():
            for item in items:
                shown = Scene.from_path(item.image)
                for name in (shown.a, shown.b):
                    index = concept_index()[name]
                    assert index in scene_concepts()
                    assert all(visible_on(style)[index, colours.index(shown.colour)] for style in STYLES)

    def test_objects_can_be_counted_and_were_pretrained_on(self) -> None:
        shown = [concepts()[index] for index in scene_concepts()]
        assert len(shown) > 200
        assert all(concept.pretrain and concept.article for concept in shown)

    def test_in_style_keeps_the_captions(self) -> None:
        flat, noto = GlyphScenes(), GlyphScenes().in_style("noto")
        for one, other in zip(flat.items["test"], noto.items["test"], strict=True):
            assert one.captions == other.captions
            assert other.image == one.image.replace("flat/", "noto/")
        assert noto.foils("test") == flat.foils("test")

    def test_an_unknown_style_is_told(self) -> None:
        with pytest.raises(ValueError, match=r"dataset.style \('flt'\) must be one of twemoji"):
            GlyphScenes(style="flt")


class TestControl:
    @pytest.mark.parametrize(
        ("tiers", "k", "chance"),
        [
            ([(4, 1)], 1, 1 / 4),
            ([(4, 1)], 5, 1.0),
            ([(4, 2)], 2, 1 - 2 / 4 * 1 / 3),
            ([(2, 0), (4, 1)], 3, 1 / 4),
            ([(2, 0), (4, 1)], 2, 0.0),
            ([(0, 0), (2, 1)], 1, 1 / 2),
        ],
    )
    def test_the_chance_of_a_hit(self, tiers: list[tuple[int, int]], k: int, chance: float) -> None:
        assert _found(tiers, k) == pytest.approx(chance)

    def test_two_scenes(self) -> None:
        """Two objects each, on red and on blue: only the caption that tells the colour tells them apart."""
        items = [
            CaptionItem(f"flat/left/fox/owl/{colour}/1", (f"a fox on a {colour} background", "a fox"), colour)
            for colour in ("red", "blue")
        ]
        recall = control_recall(items)
        assert recall["t2i_r1"] == pytest.approx((1 + 1 / 2) / 2)
        assert recall["t2i_r5"] == recall["i2t_r1"] == recall["i2t_r10"] == 1

    def test_the_shipped_scenes_are_not_given_away(self) -> None:
        recall = control_recall(GlyphScenes().items["test"])
        assert recall["t2i_r1"] == pytest.approx(0.031, abs=5e-4)
        assert recall["i2t_r1"] == pytest.approx(0.068, abs=5e-4)
        assert recall["mean_recall"] == pytest.approx(0.205, abs=5e-4)
