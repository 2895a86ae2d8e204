"""What BLIP and ALBEF share: a ViT, a BERT that can attend to it, a matching head, and a decoder for answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Backbone, Context, States
from .embeddings import ImageEmbedding, TextEmbedding
from .plan import NOTHING, Cursor, Plan, StreamPlan
from .text import TextBatch, Tokenizer
from .transformer import LayerSpec, Packing, Run, Tower

VIT_EPS, BERT_EPS = 1e-6, 1e-12
DECODERS = ("image", "text")


class LMHead(nn.Module):
    """BERT's prediction of words: dense, GELU, LayerNorm, and the embedding matrix with a bias of its own."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, BERT_EPS)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        """Logits of words: (..., D) and the embedding matrix (V, D) -> (..., V)."""
        return self.norm(F.gelu(self.dense(x))) @ words.to(x.dtype).t() + self.bias


class BertFusion(Backbone):
    """A ViT beside a post-norm BERT whose upper layers, or all layers, attend to the image.

    Attributes:
        temp: what the cosine is divided by.
        types: rows of the segment types' table.
        temp_range: bounds of ``temp`` in training.
    """

    matches = True
    types: ClassVar[int] = 0
    temp_range: ClassVar[tuple[float, float]] = (0.001, 0.5)

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        vision_width: int,
        vision_layers: int,
        vision_heads: int,
        text_width: int,
        text_layers: int,
        text_heads: int,
        cross_from: int,
        context_length: int,
        vocabulary: int,
        embed_dim: int,
        caption_length: int,
        decoder: str | None,
        decoder_layers: int,
        tied: bool,
        dropout: float,
        drop_path: float,
        checkpoint: str | None,
        tokenizer: str | Tokenizer | None,
        allow_missing: Sequence[str],
    ) -> None:
        super().__init__(tokenizer, checkpoint, allow_missing)
        if decoder is not None and decoder not in DECODERS:
            raise ValueError(f"decoder ({decoder!r}) must be one of {', '.join(DECODERS)}, or None")
        if tied and decoder != "image":
            raise ValueError(f"tied ({tied}) needs decoder='image': only the pre-training model's decoder is tied")
        self.image_size, self.embed_dim, self.caption_length = image_size, embed_dim, caption_length
        # As timm spreads it: none at the first layer, all of it at the last.
        rates = torch.linspace(0, drop_path, vision_layers, device="cpu").tolist()
        vision = [LayerSpec(vision_width, vision_heads, eps=VIT_EPS, drop_path=rate) for rate in rates]

        def text(context_width: int | None) -> LayerSpec:
            return LayerSpec(
                text_width, text_heads, eps=BERT_EPS, pre_norm=False, context_width=context_width, dropout=dropout
            )

        def embedding() -> TextEmbedding:
            return TextEmbedding(
                width=text_width,
                vocabulary=vocabulary,
                context_length=context_length,
                types=self.types,
                norm_eps=BERT_EPS,
                dropout=dropout,
            )

        self.vision_embed = ImageEmbedding(
            width=vision_width, patch_size=patch_size, image_size=image_size, bias=True, norm_eps=None
        )
        self.vision = Tower(vision)
        self.vision_norm = nn.LayerNorm(vision_width, VIT_EPS)
        self.vision_proj = nn.Linear(vision_width, embed_dim)
        self.text_embed = embedding()
        self.text = Tower([text(vision_width if i >= cross_from else None) for i in range(text_layers)])
        self.text_proj = nn.Linear(text_width, embed_dim)
        self.itm_head = nn.Linear(text_width, 2)
        self.temp = nn.Parameter(torch.tensor(0.07))
        if decoder is not None:
            self.decoder_embed = embedding()
            self.decoder = Tower([text({"image": vision_width, "text": text_width}[decoder])] * decoder_layers)
            self.decoder_head = LMHead(text_width, vocabulary)
        self.reset_parameters()
        if tied:
            self._tie()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise for pretraining as BERT and ViT are: N(0, 0.02^2) for matrices, zero for biases."""
        self._reset_normally()

    def _tie(self) -> None:
        """Share everything but self-attention between text tower and decoder, as BLIP's pre-training does."""
        self.decoder_embed = self.text_embed
        for ours, theirs in zip(self.decoder.layers, self.text.layers, strict=True):
            for name in ("cross", "norm_cross", "fc1", "fc2", "norm2"):
                setattr(ours, name, getattr(theirs, name))

    def scale(self) -> Tensor:
        return 1 / self.temp

    @torch.no_grad()
    def constrain(self) -> None:
        if self.temp.requires_grad:
            self.temp.clamp_(*self.temp_range)

    def stream_of(self, parameter: str) -> str:
        if ".cross." in parameter or ".norm_cross." in parameter or parameter.startswith(("itm_head", "lm_head")):
            return "decoder" if parameter.startswith("decoder") else "fusion"
        return super().stream_of(parameter)

    # Images -------------------------------------------------------------------------------------------------------

    def encode_image(self, images: Tensor, plan: StreamPlan = NOTHING) -> Tensor:
        if self.plain:
            return self.pool_image(self.image_states(images, plan))
        x = self.vision_embed(images, plan.context)
        first = torch.zeros(len(x), dtype=torch.long, device=x.device)
        x = self.vision(x, Run("vision", [(plan, Cursor(x.shape[1]))]), pooled=lambda: first)
        return self.vision_proj(self.vision_norm(x[:, 0]))

    def image_states(self, images: Tensor, plan: StreamPlan = NOTHING) -> Tensor:
        x = self.vision_embed(images, plan.context)
        x = self.vision(x, Run("vision", [(plan, Cursor(x.shape[1]))]))
        # Prompts stand behind the patches; nothing attends to them beyond this tower.
        return self.vision_norm(x[:, : len(self.vision_embed.position)])

    def pool_image(self, states: Tensor) -> Tensor:
        return self.vision_proj(states[:, 0])

    # Texts --------------------------------------------------------------------------------------------------------

    def encode_text(self, text: TextBatch, plan: StreamPlan = NOTHING) -> Tensor:
        states = self._run_text(text, plan, pooled=not self.plain)
        features = self.pool_text(states)
        groups = len(features) // len(text)
        return features.unflatten(0, (groups, -1)) if groups > 1 else features

    def text_states(self, text: TextBatch, plan: StreamPlan = NOTHING) -> States:
        return self._run_text(text, plan, pooled=False)

    def pool_text(self, states: States) -> Tensor:
        return self.text_proj(states.tokens[:, 0])

    def _run_text(self, text: TextBatch, plan: StreamPlan, *, pooled: bool) -> States:
        text = self._lengthened(text)
        x = self._embed(text, plan)
        return self._run("text", x, self._padding(text, x), plan, text, pooled=pooled)

    def _run(
        self,
        stream: str,
        x: Tensor,
        padding: Tensor | None,
        plan: StreamPlan,
        text: TextBatch,
        *,
        context: Context | None = None,
        pooled: bool = False,
    ) -> States:
        """Run a stream's layers over texts: packed, where no tokens enter or leave, so that padding costs nothing.

        Args:
            x: (B, L, D), the texts' tokens; B may be a multiple of the texts.
            text: the texts, whose prompts stand behind the start token.
            pooled: compute the first token alone in the last layer.
        """
        # Also a stream that the head has no need of by itself: a question encoder runs fusion on text's layers.
        where = self.all_streams[stream]
        layers, tower = range(where.first, where.first + where.depth), self.get_submodule(where.tower)
        grown = x.shape[1] - text.ids.shape[1]
        run = Run(stream, [(plan, Cursor(1 + text.slots.shape[1] + grown))], padding)
        run.context = None if context is None else context.source
        first = torch.zeros(len(x), dtype=torch.long, device=x.device)
        if padding is not None and not plan.swaps and not grown and not self.plain:
            groups = len(x) // len(text)
            run.packing = Packing((text.end + 1).repeat(groups), x.shape[1], text.total * groups)
            first = run.packing.first
            x = run.packing.pack(x)
        y = tower(x, run, layers, (lambda: first) if pooled else None)
        if pooled:
            return States(y)
        if run.packing is not None:
            return States(run.packing.unpack(y), padding)
        added = y.shape[1] - x.shape[1]
        if padding is not None and added:
            # They stand behind the start token, in front of everything that may be padded.
            padding = torch.cat([padding.new_ones(len(padding), added), padding], dim=1)
        return States(y, padding)

    # Image-text pairs ---------------------------------------------------------------------------------------------

    def context(self, states: Tensor) -> Context:
        if self.plain:
            return Context(states)
        where = self.all_streams["fusion"]
        return Context([self.text.layer(i).cross_rows(states) for i in range(where.first, where.first + where.depth)])

    def fuse(self, text: TextBatch, states: States | None, context: Context, plan: Plan) -> Tensor:
        return self.fused_states(text, states, context, plan, pooled=not self.plain).tokens[:, 0]

    def fused_states(
        self, text: TextBatch, states: States | None, context: Context, plan: Plan, *, pooled: bool = False
    ) -> States:
        """Hidden states of image-text pairs, all tokens' or the first one's; see ``fuse``."""
        raise NotImplementedError

    def read(self, images: Tensor, text: TextBatch, plan: Plan, context: Context | None = None) -> Tensor:
        if context is None:
            context = self.context(self.image_states(images, plan.of("vision")))
        return self.fused_states(text, None, context, plan).tokens

    def _paired(self, context: Context, pairs: int) -> Context:
        """Under ``plain``, a copy of each image for each of its texts."""
        if isinstance(context.source, Tensor) and len(context) < pairs:
            return Context(context.source.repeat_interleave(pairs // len(context), dim=0))
        return context

    def match(self, fused: Tensor) -> Tensor:
        return self.itm_head(fused)

    # Answers ------------------------------------------------------------------------------------------------------

    def decode(self, ids: Tensor, padding: Tensor | None, states: States, plan: Plan) -> Tensor:
        """Logits of each next word of answers.

        Args:
            ids: token ids, each row beginning with the decoder's start token.
            padding: (A, L), True at real tokens.
            states: what the answers are to: states of Q questions or images, each of A / Q consecutive answers.

        Shape:
            ids: (A, L); returns (A, L, V).
        """
        where = plan.of("decoder")
        run = Run("decoder", [(where, Cursor(1))], padding, causal=True, context_mask=states.padding)
        run.context = [self.decoder.layer(i).cross_rows(states.tokens) for i in range(len(self.decoder))]
        y = self.decoder(self.decoder_embed(ids), run)
        return self.decoder_head(y, self.decoder_embed.token.weight)

