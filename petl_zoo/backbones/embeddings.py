"""Embeddings of images and texts: patches or words, positions, and the optional norm before the first layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ImageEmbedding(nn.Module):
    """Patches by a convolution, a class token in front, positions, an optional LayerNorm (CLIP's ``ln_pre``)."""

    def __init__(self, *, width: int, patch_size: int, image_size: int, bias: bool, norm_eps: float | None) -> None:
        """Make the embedding of square images.

        Args:
            width: D.
            patch_size: side of a patch in pixels.
            image_size: side of the image in pixels.
            bias: whether the patch convolution has one (ViT yes, CLIP no).
            norm_eps: epsilon of the LayerNorm after the positions; None for no norm.

        Raises:
            ValueError: the patch does not divide the image.
        """
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"image_size ({image_size}) must be a multiple of patch_size ({patch_size})")
        self.image_size = image_size
        self.patch = nn.Conv2d(3, width, patch_size, patch_size, bias=bias)
        self.class_token = nn.Parameter(torch.zeros(width))
        self.position = nn.Parameter(torch.zeros(1 + (image_size // patch_size) ** 2, width))
        self.norm = None if norm_eps is None else nn.LayerNorm(width, norm_eps)

    def forward(self, images: Tensor, extra: Tensor | None = None) -> Tensor:
        """Embed images, with a plan's tokens behind the patches.

        Args:
            extra: prompt tokens, (n, D) or (B, n, D); they get no position.

        Shape:
            images: (B, 3, H, W); returns (B, 1 + patches + n, D).

        Raises:
            ValueError: the images' size is not the one the positions are for.
        """
        if images.shape[-2:] != (self.image_size, self.image_size):
            got = "x".join(map(str, images.shape[-2:]))
            raise ValueError(
                f"images are {got} pixels, but the backbone's image_size is {self.image_size}: "
                "set backbone.image_size, or the dataset's transform, so that they agree"
            )
        x = self.patch(images).flatten(2).transpose(1, 2)  # (B, patches, D)
        x = torch.cat([self.class_token.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
        x = x + self.position.to(x.dtype)
        if extra is not None:
            extra = extra.to(x.dtype)
            x = torch.cat([x, extra.expand(len(x), *extra.shape[-2:])], dim=1)
        return x if self.norm is None else self.norm(x)


class TextEmbedding(nn.Module):
    """Words and positions; for BERT also the type of the only segment, a LayerNorm and dropout."""

    def __init__(
        self,
        *,
        width: int,
        vocabulary: int,
        context_length: int,
        types: int = 0,
        norm_eps: float | None = None,
        dropout: float = 0.0,
    ) -> None:
        """Make the embedding.

        Args:
            width: D.
            vocabulary: number of token ids.
            context_length: rows of the position table.
            types: rows of the segment types' table, of which the first is added to every token; 0 for no table.
            norm_eps: epsilon of the LayerNorm; None for no norm.
            dropout: drop probability of the embeddings.
        """
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.zeros(context_length, width))
        self.segment = nn.Parameter(torch.zeros(types, width)) if types else None
        self.norm = None if norm_eps is None else nn.LayerNorm(width, norm_eps)
        self.dropout = dropout

    def forward(self, ids: Tensor) -> Tensor:
        """(C, L) -> (C, L, D)."""
        return self._finish(self.token(ids) + self.position[: ids.shape[1]])

    def at(self, vectors: Tensor, positions: Tensor) -> Tensor:
        """Embed vectors that stand for words, such as a prompt's.

        Shape:
            vectors: (..., C or 1, n, D); positions: (C, n); returns (..., C, n, D).
        """
        return self._finish(vectors + self.position[positions])

    def _finish(self, x: Tensor) -> Tensor:
        if self.segment is not None:
            x = x + self.segment[0]
        if self.norm is not None:
            x = self.norm(x)
        return F.dropout(x, self.dropout) if self.training and self.dropout else x


def place(x: Tensor, slots: Tensor, context: Tensor) -> Tensor:
    """Put context vectors into their slots.

    Shape:
        x: (G, C, L, D); slots: (C, n); context: (G, C, n, D), or 1 for G or C; returns (G, C, L, D).
    """
    if slots.shape[1] == 0:
        return x
    groups, count = max(len(x), len(context)), len(slots)
    x = x.expand(groups, count, -1, -1)
    context = context.to(x.dtype).expand(groups, count, -1, -1)
    return x.scatter(2, slots[None, :, :, None].expand_as(context), context)


def resize_positions(position: Tensor, grid: int, leading: int = 1) -> Tensor:
    """Interpolate a table of position embeddings for another image size.

    Args:
        position: (leading + g * g, D), g * g of them a square grid, row by row.
        grid: side of the new grid.
        leading: rows in front that stay as they are (the class token's; BEiT-3 has two more).

    Shape:
        returns (leading + grid * grid, D), resized bicubically as BLIP's and ALBEF's loaders do.

    Raises:
        ValueError: the rows behind ``leading`` are not a square.
    """
    head, table = position[:leading], position[leading:]
    side = round(len(table) ** 0.5)
    if side * side != len(table):
        raise ValueError(f"a position table of {len(table)} rows behind the first {leading} is not a square grid")
    if side == grid:
        return position
    square = table.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)  # (1, D, g, g)
    square = F.interpolate(square, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([head, square.permute(0, 2, 3, 1).flatten(0, 2).to(table.dtype)])
