"""CLIP (Radford et al., 2021, arXiv 2103.00020): two pre-norm towers, a causal one for text."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from registry import BACKBONES

from .base import Backbone, Stream, check_slots
from .embeddings import ImageEmbedding, TextEmbedding, place
from .plan import NOTHING, Cursor, StreamPlan
from .text import TextBatch, Tokenizer
from .transformer import LayerSpec, Run, Tower


@BACKBONES.register_module()
class CLIP(Backbone):
    """CLIP's vision transformer and text transformer.

    Source: Radford et al. 2021; layer for layer as in OpenAI's release: LayerNorm before the first vision layer, class
    token and end token pooled, projections without bias, ``logit_scale`` in log form.
    """

    def __init__(
        self,
        *,
        image_size: int = 224,
        patch_size: int = 16,
        vision_width: int = 768,
        vision_layers: int = 12,
        vision_heads: int = 12,
        text_width: int = 512,
        text_layers: int = 12,
        text_heads: int = 8,
        context_length: int = 77,
        vocabulary: int = 49408,
        embed_dim: int = 512,
        act: str = "quick_gelu",
        checkpoint: str | None = None,
        tokenizer: str | Tokenizer | None = None,
        allow_missing: Sequence[str] = (),
    ) -> None:
        """Make CLIP at the given sizes, initialised as for pretraining; ``checkpoint`` is loaded by the model.

        Args:
            image_size: side of the image in pixels.
            patch_size: side of a patch in pixels.
            vision_width: D of the vision tower.
            text_width: D of the text tower.
            context_length: most tokens of a text.
            vocabulary: number of token ids.
            embed_dim: E, width of the joint space.
            act: ``quick_gelu`` for OpenAI's weights; some open_clip weights want ``gelu``.
            checkpoint: file, folder, hub id or ``zoo:`` name; see ``checkpoints``.
            tokenizer: folder or hub id, or a tokenizer; by default it is looked for beside the checkpoint.
            allow_missing: names of parameters, as shell patterns, that the checkpoint may lack; they keep their
                initialisation. Heads of other tasks may be missing anyway.
        """
        super().__init__(tokenizer, checkpoint, allow_missing)
        self.image_size, self.embed_dim, self.caption_length = image_size, embed_dim, context_length
        vision = LayerSpec(vision_width, vision_heads, act=act)
        text = LayerSpec(text_width, text_heads, act=act)
        self.all_streams = self.streams = {
            "vision": Stream("vision", vision_width, "vision", 0, vision_layers),
            "text": Stream("text", text_width, "text", 0, text_layers),
        }
        self.vision_embed = ImageEmbedding(
            width=vision_width, patch_size=patch_size, image_size=image_size, bias=False, norm_eps=1e-5
        )
        self.vision = Tower([vision] * vision_layers)
        self.vision_norm = nn.LayerNorm(vision_width)
        self.vision_proj = nn.Linear(vision_width, embed_dim, bias=False)
        self.text_embed = TextEmbedding(width=text_width, vocabulary=vocabulary, context_length=context_length)
        self.text = Tower([text] * text_layers)
        self.text_norm = nn.LayerNorm(text_width)
        self.text_proj = nn.Linear(text_width, embed_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise for pretraining as CLIP's paper does: scaled by width and depth, so the stream keeps its size."""
        for tower, width in ((self.vision, self.streams["vision"].width), (self.text, self.streams["text"].width)):
            out = width**-0.5 * (2 * len(tower)) ** -0.5
            for name, module in tower.named_modules():
                if isinstance(module, nn.Linear):
                    leaf = name.rsplit(".", 1)[-1]
                    std = {"out": out, "fc2": out, "fc1": (2 * width) ** -0.5}.get(leaf, width**-0.5)
                    nn.init.normal_(module.weight, std=std)
                    nn.init.zeros_(module.bias)
        vision, text = self.streams["vision"].width, self.streams["text"].width
        nn.init.normal_(self.vision_embed.class_token, std=vision**-0.5)
        nn.init.normal_(self.vision_embed.position, std=vision**-0.5)
        nn.init.normal_(self.vision_proj.weight, std=vision**-0.5)
        nn.init.normal_(self.text_embed.token.weight, std=0.02)
        nn.init.normal_(self.text_embed.position, std=0.01)
        nn.init.normal_(self.text_proj.weight, std=text**-0.5)

    def scale(self) -> Tensor:
        """``exp(logit_scale)``, at most 100 as in CLIP's training (section 2.5)."""
        return self.logit_scale.exp().clamp(max=100)

    def encode_image(self, images: Tensor, plan: StreamPlan = NOTHING) -> Tensor:
        x = self.vision_embed(images, plan.context)
        first = torch.zeros(len(x), dtype=torch.long, device=x.device)
        run = Run("vision", [(plan, Cursor(x.shape[1]))])
        x = self.vision(x, run, pooled=None if self.plain else lambda: first)
        return self.vision_proj(self.vision_norm(x[:, 0]))

    def encode_text(self, text: TextBatch, plan: StreamPlan = NOTHING) -> Tensor:
        """Text features; what all texts share runs once.

        Raises:
            ValueError: the plan has another number of context vectors than the template has slots, or swaps tokens
                where the slots do not stand behind the start token.
        """
        check_slots(text, plan)
        context, slots = plan.context, text.slots.shape[1]
        if self.plain:
            text = text.padded(self.context_length, self.tokenizer.pad)
        x = self.text_embed(text.ids)[None]  # (1, C, L, D)
        shared, inside = text.shared, text.shared_slots
        if context is not None:
            context = context.reshape((1,) * (4 - context.dim()) + context.shape)  # (G, 1 or C, n, D)
            if context.shape[1] > 1:
                shared, inside = min(shared, 1), 0  # Each class has its own context: only the start token is shared.
            context = self.text_embed.at(context, text.slots)  # (G, C, n, D)
        if plan.swaps and inside < slots:
            shared = inside = 0  # Deep prompts follow a first one that each class has of its own: the plain path.
        head, tail = x[:, :1, :shared], x[:, :, shared:]
        if context is not None:
            head = place(head, text.slots[:1, :inside], context[:, :1, :inside])
            tail = place(tail, text.slots[:, inside:] - shared, context[:, :, inside:])
        groups = max(len(head), len(tail))
        tail = tail.expand(groups, *tail.shape[1:])
        cursor = Cursor(1 + slots)
        run = Run("text", [(plan, cursor)], causal=True)
        if shared:
            total = text.total - shared * len(text.end)
            y = self.text.forward_shared(head[:, 0].expand(groups, -1, -1), tail, text.end - shared, total, run)
        else:

            def end() -> Tensor:
                return (text.end + cursor.position - 1 - slots).repeat(groups)

            y = self.text(tail.flatten(0, 1), run, pooled=None if self.plain else end)
            if self.plain:
                y = y[torch.arange(len(y), device=y.device), end()]
            y = y.reshape(groups, len(text.end), -1)  # (G, C, D)
        features = self.text_proj(self.text_norm(y))
        return features if context is not None and len(context) > 1 else features[0]
