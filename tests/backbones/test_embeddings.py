"""Patches, words, positions, and the slots that context vectors take."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from petl_zoo.backbones.embeddings import ImageEmbedding, TextEmbedding, place, resize_positions


def make_images(bias: bool = True, norm_eps: float | None = None) -> ImageEmbedding:
    torch.manual_seed(0)
    embedding = ImageEmbedding(width=6, patch_size=4, image_size=8, bias=bias, norm_eps=norm_eps)
    with torch.no_grad():
        for parameter in embedding.parameters():
            parameter.normal_()
    return embedding


@pytest.mark.parametrize("bias", [True, False])
def test_patches_are_rows_of_pixels_times_a_matrix(bias: bool) -> None:
    embedding = make_images(bias)
    images = torch.randn(2, 3, 8, 8)
    x = embedding(images)
    assert x.shape == (2, 5, 6)
    torch.testing.assert_close(x[:, 0], (embedding.class_token + embedding.position[0]).expand(2, -1))
    for i, (top, left) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
        pixels = images[:, :, top : top + 4, left : left + 4].flatten(1)
        patch = pixels @ embedding.patch.weight.flatten(1).t() + embedding.position[1 + i]
        if embedding.patch.bias is not None:
            patch = patch + embedding.patch.bias
        torch.testing.assert_close(x[:, 1 + i], patch, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 6), (2, 3, 6)], ids=["shared", "each"])
def test_prompts_stand_behind_the_patches_and_are_normed_with_them(shape: tuple[int, ...]) -> None:
    embedding, bare = make_images(norm_eps=1e-5), make_images()
    assert isinstance(embedding.norm, nn.LayerNorm)
    images, extra = torch.randn(2, 3, 8, 8), torch.randn(shape)
    expected = embedding.norm(torch.cat([bare(images), extra.expand(2, 3, 6)], dim=1))
    embedding.load_state_dict(bare.state_dict(), strict=False)
    torch.testing.assert_close(embedding(images, extra), expected)


def test_images_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"images are 8x12 pixels, but the backbone's image_size is 8: set"):
        make_images()(torch.randn(1, 3, 8, 12))


def test_patches_must_divide_the_image() -> None:
    with pytest.raises(ValueError, match=r"image_size \(10\) must be a multiple of patch_size \(4\)"):
        ImageEmbedding(width=6, patch_size=4, image_size=10, bias=True, norm_eps=None)


def test_words_and_positions() -> None:
    embedding = TextEmbedding(width=4, vocabulary=7, context_length=5)
    nn.init.normal_(embedding.position)
    x = embedding(torch.tensor([[2, 2, 6]]))
    torch.testing.assert_close(x[0, 1] - x[0, 0], embedding.position[1] - embedding.position[0])
    torch.testing.assert_close(x[0, 2], embedding.token.weight[6] + embedding.position[2])


@pytest.mark.parametrize(("groups", "own"), [(1, False), (1, True), (3, False), (3, True)])
def test_context_takes_its_slots(groups: int, own: bool) -> None:
    count, length, slots = 2, 5, torch.tensor([[1, 3], [2, 4]])
    x = torch.randn(1, count, length, 4)
    context = torch.randn(groups, count if own else 1, 2, 4)
    before = x.clone()
    y = place(x, slots, context)
    assert y.shape == (groups, count, length, 4)
    for g in range(groups):
        for c in range(count):
            for position in range(length):
                taken = position in slots[c]
                which = slots[c].tolist().index(position) if taken else 0
                expected = context[g, c if own else 0, which] if taken else x[0, c, position]
                assert torch.equal(y[g, c, position], expected)
    assert torch.equal(x, before)


def test_without_slots_nothing_is_placed() -> None:
    x = torch.randn(1, 2, 3, 4)
    assert place(x, torch.empty(2, 0, dtype=torch.long), torch.empty(1, 1, 0, 4)) is x


def test_positions_of_the_same_size_stay() -> None:
    table = torch.randn(1 + 9, 4)
    assert torch.equal(resize_positions(table, 3), table)


@pytest.mark.parametrize("leading", [1, 3])
@pytest.mark.parametrize("grid", [2, 6])
def test_positions_are_resized_as_an_image(leading: int, grid: int) -> None:
    table = torch.randn(leading + 16, 4)
    resized = resize_positions(table, grid, leading)
    assert torch.equal(resized[:leading], table[:leading])
    for channel in range(4):
        image = table[leading:, channel].reshape(1, 1, 4, 4)
        expected = F.interpolate(image, size=(grid, grid), mode="bicubic", align_corners=False)
        torch.testing.assert_close(resized[leading:, channel].reshape(1, 1, grid, grid), expected)


def keys_kernel(old: int, new: int) -> torch.Tensor:
    """Bicubic interpolation along one side as a matrix, (new, old): Keys' kernel with a = -0.75, clamped borders."""
    a, matrix = -0.75, torch.zeros(new, old)
    for row in range(new):
        centre = (row + 0.5) * old / new - 0.5
        for column in range(math.floor(centre) - 1, math.floor(centre) + 3):
            t = abs(centre - column)
            near = (a + 2) * t**3 - (a + 3) * t**2 + 1
            far = a * (t**3 - 5 * t**2 + 8 * t - 4)
            matrix[row, min(max(column, 0), old - 1)] += near if t <= 1 else far
    return matrix


@pytest.mark.parametrize("grid", [3, 7])
def test_resizing_is_keys_interpolation_along_both_sides(grid: int) -> None:
    table, matrix = torch.randn(1 + 25, 4), keys_kernel(5, grid)
    expected = torch.einsum("ij,jkd,lk->ild", matrix, table[1:].unflatten(0, (5, 5)), matrix)
    torch.testing.assert_close(resize_positions(table, grid)[1:], expected.flatten(0, 1), rtol=1e-4, atol=1e-5)


def test_half_precision_tables_stay_half() -> None:
    assert resize_positions(torch.randn(5, 4).half(), 3).dtype == torch.float16


def test_a_table_that_is_no_square() -> None:
    with pytest.raises(ValueError, match="12 rows behind the first 1 is not a square grid"):
        resize_positions(torch.randn(13, 4), 2)
