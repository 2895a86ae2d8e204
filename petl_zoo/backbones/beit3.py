"""BEiT-3 (Wang et al., 2022, arXiv 2208.10442): one encoder with a vision and a language expert in every layer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from registry import BACKBONES

from .base import Backbone, Context, States, Stream
from .embeddings import ImageEmbedding, TextEmbedding
from .plan import NOTHING, Cursor, Plan, StreamPlan
from .text import TextBatch, Tokenizer
from .transformer import LayerSpec, Multiway, Run, Tower


@BACKBONES.register_module()
class BEiT3(Backbone):
    """BEiT-3's Multiway encoder with its retrieval heads: a dual encoder, or both modalities in one sequence.

    Every parametrised piece of a layer exists twice; an image's tokens go through the vision expert, a text's through
    the text expert, and attention is joint where both are there. Retrieval compares two passes of one modality each;
    the fused pass serves questions and masked words.

    Source: Wang et al. 2022; layer for layer as in torchscale's and unilm's release: pre-norm with sub-LayerNorms,
    class token and first text token pooled, projections without bias. Positions of a text begin anew behind an image.
    The releases' position tables have two rows in front that nothing reads; here they are left out.
    """

    tokenizer_kind = "beit3"

    def __init__(
        self,
        *,
        image_size: int = 384,
        patch_size: int = 16,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        context_length: int = 1022,
        vocabulary: int = 64010,
        caption_length: int = 64,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        checkpoint: str | None = None,
        tokenizer: str | Tokenizer | None = None,
        allow_missing: Sequence[str] = (),
    ) -> None:
        """Make BEiT-3 at the given sizes, initialised as for pretraining; ``checkpoint`` is loaded by the model.

        Args:
            image_size: side of the image in pixels.
            patch_size: side of a patch in pixels.
            width: D of the encoder, and E of the joint space.
            context_length: rows of the text's position table.
            vocabulary: number of token ids.
            caption_length: most tokens of a caption, special ones included.
            dropout: drop probability, while training.
            drop_path: probability with which the last layer's branches are dropped.
            checkpoint: file, folder, hub id or ``zoo:`` name; see ``checkpoints``.
            tokenizer: folder or hub id, or a tokenizer; by default it is looked for beside the checkpoint.
            allow_missing: names of parameters, as shell patterns, that the checkpoint may lack; they keep their
                initialisation. Heads of other tasks may be missing anyway.
        """
        super().__init__(tokenizer, checkpoint, allow_missing)
        self.image_size, self.embed_dim, self.caption_length = image_size, width, caption_length
        rates = torch.linspace(0, drop_path, layers, device="cpu").tolist()
        self.vision_embed = ImageEmbedding(
            width=width, patch_size=patch_size, image_size=image_size, bias=True, norm_eps=None
        )
        self.text_embed = TextEmbedding(width=width, vocabulary=vocabulary, context_length=context_length)
        self.encoder = Tower(
            [LayerSpec(width, heads, experts=2, sub_norm=True, dropout=dropout, drop_path=rate) for rate in rates]
        )
        self.encoder_norm = Multiway(lambda: nn.LayerNorm(width))
        self.vision_proj = nn.Linear(width, width, bias=False)
        self.text_proj = nn.Linear(width, width, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.all_streams = self.streams = {
            "vision": Stream("vision", width, "encoder", 0, layers, "vision"),
            "text": Stream("text", width, "encoder", 0, layers, "text"),
            "fusion": Stream("fusion", width, "encoder", 0, layers),
        }
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise for pretraining: N(0, 0.02^2), and matrices on the residual stream by Magneto's depth scale."""
        self._reset_normally()
        scale = math.sqrt(math.log(2 * len(self.encoder)))
        for name, parameter in self.encoder.named_parameters():
            if any(f".{part}." in name for part in ("fc1", "fc2", "v", "out")) and name.endswith("weight"):
                parameter.mul_(scale)

    def scale(self) -> Tensor:
        return self.logit_scale.exp()

    def stream_of(self, parameter: str) -> str:
        if parameter.startswith("encoder"):
            return "vision" if ".vision." in parameter else "text" if ".text." in parameter else "fusion"
        return super().stream_of(parameter)

    def encode_image(self, images: Tensor, plan: StreamPlan = NOTHING) -> Tensor:
        x = self.vision_embed(images, plan.context)
        first = torch.zeros(len(x), dtype=torch.long, device=x.device)
        run = Run("vision", [(plan, Cursor(x.shape[1]))], split=x.shape[1])
        x = self.encoder(x, run, pooled=None if self.plain else lambda: first)
        return self.vision_proj(self.encoder_norm.vision(x[:, 0]))

    def encode_text(self, text: TextBatch, plan: StreamPlan = NOTHING) -> Tensor:
        text = self._lengthened(text)
        x = self._embed(text, plan)
        padding = self._padding(text, x)
        first = torch.zeros(len(x), dtype=torch.long, device=x.device)
        run = Run("text", [(plan, Cursor(1 + text.slots.shape[1]))], padding)
        x = self.encoder(x, run, pooled=None if self.plain else lambda: first)
        features = self.text_proj(self.encoder_norm.text(x[:, 0]))
        groups = len(features) // len(text)
        return features.unflatten(0, (groups, -1)) if groups > 1 else features

    def read(self, images: Tensor, text: TextBatch, plan: Plan, context: Context | None = None) -> Tensor:
        return self.fused_states(images, text, plan).tokens[:, -text.ids.shape[1] :]

    def fused_states(self, images: Tensor, text: TextBatch, plan: Plan | None = None, *, norm: bool = True) -> States:
        """Hidden states of images and texts in one sequence, image first.

        Args:
            plan: the fusion stream's swaps and rows stand behind the image's tokens; a context of ``vision`` or
                ``text`` joins its own modality.
            norm: apply the final LayerNorm (retrieval does, questions do not).

        Shape:
            images: (B, 3, H, W) with B texts; returns tokens (B, 1 + patches + L, D).
        """
        plan = plan or Plan()
        fusion = plan.of("fusion")
        image = self.vision_embed(images, plan.of("vision").context)
        words = self._embed(text, plan.of("text"))
        padding = self._padding(text, words)
        split = image.shape[1]
        if padding is not None:
            padding = torch.cat([padding.new_ones(len(image), split), padding], dim=1)
        cursor = Cursor(split)
        x = self.encoder(
            torch.cat([image, words], dim=1), Run("fusion", [(fusion, cursor)], padding, split=split)
        )
        grown = cursor.position - split
        if padding is not None and grown:
            padding = torch.cat([padding.new_ones(len(padding), grown), padding], dim=1)
        return States(self.encoder_norm(x, cursor.position) if norm else x, padding)
