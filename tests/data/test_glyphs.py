"""The atlas holds what its metadata say, and the renderer draws it the same way every time, visibly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from petl_zoo.data.glyphs import MEAN, STD, STYLES, View, concept_index, concepts, draws_for, glyphs, render
from petl_zoo.data.glyphs.atlas import FOLDER
from petl_zoo.data.glyphs.dataset import GlyphReader, every_concept
from petl_zoo.data.glyphs.render import DRAWS, TEST_VIEW

PATHS = ("flat/monkey/000", "noto/violin/003", "contrast/rose/x", "twemoji/top-hat/1", "flat/monkey/001")
DARK = 35  # the first channel of the darkest background colour


def pixels(images: Tensor) -> Tensor:
    return images * STD + MEAN


class TestAtlas:
    def test_counts(self) -> None:
        assert len(concepts()) == 731
        assert sum(concept.pretrain for concept in concepts()) == 692
        assert len({c.subgroup for c in concepts() if not c.pretrain}) == 3

    def test_names_and_ids_are_unique(self) -> None:
        assert len({concept.name for concept in concepts()}) == len({concept.id for concept in concepts()}) == 731
        assert len({concept.hexcode for concept in concepts()}) == 731

    def test_a_kind_is_one_subgroup_and_none_is_both_seen_and_unseen(self) -> None:
        subgroups = {concept.subgroup: concept for concept in concepts()}
        assert len({concept.kind for concept in subgroups.values()}) == len(subgroups)
        assert len({(concept.subgroup, concept.pretrain) for concept in concepts()}) == len(subgroups)

    @pytest.mark.parametrize("style", STYLES)
    def test_a_sheet_holds_what_the_metadata_say(self, style: str) -> None:
        sheet = glyphs(style)
        assert sheet.shape == (731, 4, 64, 64)
        assert sheet.dtype == torch.uint8
        drawn = sheet[:, 3].float().mean((1, 2)) >= 8
        assert drawn.tolist() == [style in concept.styles for concept in concepts()]

    @pytest.mark.parametrize("style", STYLES)
    def test_colours_are_premultiplied(self, style: str) -> None:
        sheet = glyphs(style)
        assert bool((sheet[:, :3] <= sheet[:, 3:]).all())

    def test_every_style_is_used_and_has_its_file(self) -> None:
        assert {style for concept in concepts() for style in concept.styles} == set(STYLES)
        assert {path.stem for path in FOLDER.glob("*.webp")} == set(STYLES)

    def test_every_style_and_its_licence_are_attributed(self) -> None:
        text = (FOLDER / "ATTRIBUTION.md").read_text()
        rows = {line.split("|")[1].strip(" `"): line for line in text.splitlines() if line.startswith("| `")}
        assert set(rows) >= set(STYLES)
        for style in STYLES:
            assert any(licence in rows[style] for licence in ("CC BY 4.0", "Apache-2.0", "MIT"))

    def test_an_unknown_style_is_told(self) -> None:
        with pytest.raises(ValueError, match="no glyph style 'openmoji'; the atlas has twemoji"):
            glyphs("openmoji")


class TestRender:
    def test_a_batch_equals_its_images_one_by_one(self) -> None:
        read = GlyphReader(size=48)
        torch.testing.assert_close(read(PATHS), torch.cat([read([path]) for path in PATHS]), rtol=0, atol=1e-6)

    def test_a_path_decides_its_image(self) -> None:
        read = GlyphReader(size=48)
        torch.manual_seed(0)
        first = read(PATHS)
        torch.manual_seed(1)
        assert torch.equal(first, read(PATHS))
        assert not torch.allclose(first[0], first[4], atol=0.1)  # another rendering of the same drawing

    def test_evaluation_leaves_the_global_generator_alone(self) -> None:
        torch.manual_seed(0)
        before = torch.get_rng_state()
        GlyphReader(size=32)(PATHS)
        assert torch.equal(before, torch.get_rng_state())

    def test_training_draws_from_the_global_generator(self) -> None:
        read = GlyphReader(size=48, augment=True)
        torch.manual_seed(0)
        first, other = read(PATHS), read(PATHS)
        torch.manual_seed(0)
        assert torch.equal(first, read(PATHS))
        assert not torch.allclose(first, other, atol=0.1)

    def test_augmentation_keeps_the_background(self) -> None:
        """The glyph's square may leave a corner, the background's colour may not change."""
        corners = [
            GlyphReader(size=48, augment=augment)(["flat/rose/000"] * 8)[:, :, 0, 0] for augment in (False, True)
        ]
        torch.testing.assert_close(corners[0], corners[1])

    def test_the_draws_of_a_path_do_not_depend_on_the_others(self) -> None:
        assert torch.equal(draws_for(PATHS)[3], draws_for(PATHS[3:4])[0])
        assert draws_for(()).shape == (0, DRAWS)

    @pytest.mark.parametrize("size", [17, 48, 64])
    def test_any_size(self, size: int) -> None:
        assert GlyphReader(size=size)(PATHS).shape == (5, 3, size, size)

    def test_pixels_lie_between_black_and_white(self) -> None:
        torch.manual_seed(0)
        for style in STYLES:
            images = pixels(render(glyphs(style)[torch.randint(731, (64,))], view=View(jitter=0.5)))
            assert images.min() >= -1e-5
            assert images.max() <= 1 + 1e-5

    def test_mean_and_deviation_are_about_those_normalised_with(self) -> None:
        images = torch.stack([sample["images"] for sample in every_concept("twemoji").__getitems__(range(300))])
        assert abs(images.mean()) < 1
        assert 0.7 < images.std() < 1.5

    def test_the_same_operations_run_on_a_gpu(self) -> None:
        with FakeTensorMode(allow_non_fake_inputs=True):
            some = torch.zeros(4, 4, 64, 64, dtype=torch.uint8, device="cuda")
            images = render(some, size=48, view=View(jitter=0.3))
            assert (images.device.type, images.shape) == ("cuda", (4, 3, 48, 48))

    def test_views_stay_in_their_ranges(self) -> None:
        """A full square keeps at least its share of the image, and an upright one nothing but it."""
        torch.manual_seed(0)
        square = torch.full((200, 4, 64, 64), 255, dtype=torch.uint8)
        square[:, :3] = 0
        images = pixels(render(square, size=48, view=View(scale=(0.5, 0.5), rotation=0, white=1.0)))
        covered = (images.mean(1) < 0.5).float().mean((1, 2))
        assert covered.min() > 0.24
        assert covered.max() < 0.28

    @pytest.mark.parametrize("gray", [0, 90, 180, 255])
    @pytest.mark.parametrize("view", [TEST_VIEW, View(white=1.0), View(white=0.0)])
    def test_a_plain_glyph_is_visible_on_every_background(self, gray: int, view: View) -> None:
        torch.manual_seed(0)
        disc = torch.zeros(300, 4, 64, 64, dtype=torch.uint8)
        disc[:, :3, 16:48, 16:48], disc[:, 3, 16:48, 16:48] = gray, 255
        images = pixels(render(disc, size=48, view=View(scale=(1.0, 1.0), rotation=0, white=view.white)))
        distance = (images[:, :, 24, 24] - images[:, :, 0, 0]).abs().mean(1)
        assert distance.min() > view.contrast - 0.01

    @pytest.mark.parametrize("style", ["contrast", "flat"])
    def test_dark_drawings_are_visible_on_dark_backgrounds(self, style: str) -> None:
        """Every drawing, on the darkest colour: its mean distance to the ground is what the view promises."""
        sheet = glyphs(style)[[style in concept.styles for concept in concepts()]]
        draws = torch.full((len(sheet), DRAWS), 0.5)
        draws[:, 11], draws[:, 15] = 0.999, 0.999  # the last colour of the palette, and not white
        view = View(scale=(1.0, 1.0), rotation=0)
        images = pixels(render(sheet, size=64, view=view, draws=draws))
        flipped = images.flip(3) if bool(draws[0, 2] < view.flip) else images
        cover = sheet[:, 3].float() / 255
        ground = torch.where(cover[:, None] == 0, images, torch.nan).flatten(2).nanmedian(2).values[:, :, None, None]
        # A drawing that fills its square shows no ground to compare with.
        shown = ~ground.isnan().any(1).flatten()
        assert shown.float().mean() > 0.9
        distance = ((flipped - ground).abs().mean(1) * (cover > 0)).sum((1, 2)) / cover.sum((1, 2))
        assert distance[shown].min() > view.contrast - 0.02

    def test_without_the_check_dark_drawings_would_vanish(self) -> None:
        disc = torch.zeros(1, 4, 64, 64, dtype=torch.uint8)
        disc[:, :3, 16:48, 16:48], disc[:, 3, 16:48, 16:48] = DARK, 255
        draws = torch.full((1, DRAWS), 0.5)
        draws[:, 11], draws[:, 15] = 0.999, 0.999
        distance = [
            (image[0, :, 24, 24] - image[0, :, 0, 0]).abs().mean()
            for image in (pixels(render(disc, view=View(contrast=c), draws=draws)) for c in (0.0, 0.15))
        ]
        assert distance[0] < 0.05
        assert distance[1] > 0.5


class TestReader:
    @pytest.mark.parametrize("path", ["flat/unicycle/000", "openmoji/rose/000", "noto1/badger/000", "rose", ""])
    def test_a_path_without_a_drawing_is_told(self, path: str) -> None:
        with pytest.raises(ValueError, match="names no drawing; it must be style/concept/number"):
            GlyphReader()([path])

    def test_every_concept_shows_what_a_style_draws(self) -> None:
        images = every_concept("noto1")
        assert len(images) == sum(c.pretrain and "noto1" in c.styles for c in concepts()) == len(images.classes)
        for item in images.items:
            concept = concepts()[concept_index()[item.path.split("/")[1]]]
            assert images.classes.names[item.label] == item.name == concept.name
