"""What a backbone offers: named streams for tuners, and encoders that follow a plan."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn

from .embeddings import ImageEmbedding, TextEmbedding, place
from .plan import NOTHING, Plan, Rows, StreamPlan
from .text import TextBatch, Tokenizer
from .transformer import Layer, Tower

ENCODERS = ("vision", "text", "fusion")
STREAMS = (*ENCODERS, "decoder")


@dataclass(frozen=True)
class Stream:
    """One named stream of a backbone: which layers of which tower it runs.

    Attributes:
        name: ``vision``, ``text``, ``fusion`` or ``decoder``.
        width: D of its tokens.
        tower: name of the tower within the backbone; two streams may share one (BLIP's text and fusion).
        first: index of its first layer within the tower.
        depth: number of its layers.
        expert: name of the one expert that its tokens go through, where the layers have experts; None for all.
    """

    name: str
    width: int
    tower: str
    first: int
    depth: int
    expert: str | None = None


@dataclass(frozen=True)
class States:
    """Hidden states of texts.

    Attributes:
        tokens: (B, N, D).
        padding: (B, N), True at real tokens; None where all are real.
    """

    tokens: Tensor
    padding: Tensor | None = None

    def take(self, index: Tensor) -> States:
        """The texts at the places ``index``, (P,)."""
        return States(self.tokens[index], None if self.padding is None else self.padding[index])


@dataclass(frozen=True)
class Context:
    """What cross-attention reads of B images: their states, or keys and values of every fusion layer.

    Keys and values are computed once an image and serve every text that is compared with it.
    """

    source: Tensor | Sequence[Rows]

    def __len__(self) -> int:
        return len(self.source) if isinstance(self.source, Tensor) else len(self.source[0].key)

    def take(self, index: Tensor) -> Context:
        """The images at the places ``index``, (P,)."""
        if isinstance(self.source, Tensor):
            return Context(self.source[index])
        return Context([Rows(rows.key[index], rows.value[index]) for rows in self.source])


class Backbone(nn.Module):
    """A frozen vision-language model.

    A subclass sets ``streams`` and implements the encoders. Parameter names tell the stream (``stream_of``), which is
    how costs are split.

    Attributes:
        plain: compute as plain code does: every text at full length and by itself, every token to the last layer, keys
            and values of an image anew for every text. The same results, slower; what tests and benchmarks compare
            with.
        tokenizer_kind: what kind of tokenizer is loaded; see ``tokenizers.load_tokenizer``.
        matches: whether there is a matching score of an image-text pair beyond the cosine of their features (ITM).
        fuses_states: whether ``fuse`` goes on from the texts' states; else it begins at the words.
        adds_similarity: whether re-ranking adds the cosine to the matching score, as BLIP's evaluation does.
        all_streams: every stream there is, by name.
        streams: the streams in use; see ``use``.
        embed_dim: E, width of the joint space.
        image_size: side of the images in pixels.
        caption_length: most tokens of a caption, special tokens included; what is longer is cut.
    """

    plain = False
    tokenizer_kind: ClassVar[str] = "clip"
    matches: ClassVar[bool] = False
    fuses_states: ClassVar[bool] = False
    adds_similarity: ClassVar[bool] = False
    all_streams: dict[str, Stream]
    streams: dict[str, Stream]
    text_embed: TextEmbedding
    embed_dim: int
    image_size: int
    caption_length: int

    def __init__(
        self,
        tokenizer: str | Tokenizer | None = None,
        checkpoint: str | None = None,
        allow_missing: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        self.checkpoint, self.allow_missing = checkpoint, tuple(allow_missing)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, loaded when it is first needed."""
        if self._tokenizer is not None and not isinstance(self._tokenizer, str):
            return self._tokenizer
        from .tokenizers import TokenizerError, load_tokenizer

        tokenizer = load_tokenizer(self._tokenizer, self.checkpoint, self.context_length, kind=self.tokenizer_kind)
        rows = self.text_embed.token.num_embeddings
        if len(tokenizer) > rows:
            raise TokenizerError(
                f"the tokenizer has {len(tokenizer)} ids, but the backbone embeds {rows}: it is another model's. Set "
                "backbone.tokenizer to the one the weights were trained with, or backbone.vocabulary to its size"
            )
        return tokenizer

    @property
    def context_length(self) -> int:
        """Most tokens of a text, special tokens included."""
        return len(self.text_embed.position)

    @property
    def like(self) -> Tensor:
        """A parameter whose device and dtype new parameters take."""
        return self.text_embed.position

    def use(self, names: Collection[str]) -> None:
        """Leave out streams that nothing will run: tuners neither prompt nor train them."""
        self.streams = {name: stream for name, stream in self.all_streams.items() if name in names}

    def scale(self) -> Tensor:
        """The factor of the cosine between an image's feature and a text's."""
        raise NotImplementedError

    def constrain(self) -> None:
        """Bring parameters that must stay within bounds back into them; called before each training step."""

    def tower(self, stream: str) -> Tower:
        """The tower that a stream runs on."""
        tower = self.get_submodule(self.streams[stream].tower)
        assert isinstance(tower, Tower)
        return tower

    def layers(self, stream: str) -> Iterator[tuple[str, Layer]]:
        """A stream's layers, each with its name within the backbone."""
        spec = self.streams[stream]
        tower = self.tower(stream)
        for i in range(spec.first, spec.first + spec.depth):
            yield f"{spec.tower}.layers.{i}", tower.layer(i)

    def stream_of(self, parameter: str) -> str:
        """The stream that a parameter's name belongs to; ``joint`` where it belongs to none."""
        return next((name for name in STREAMS if parameter.startswith(name)), "joint")

    def word_vectors(self, words: str) -> Tensor:
        """Token embeddings of a text without special tokens: (n, D_text), detached."""
        table = self.text_embed.token.weight
        if table.is_meta:  # Counting parameters needs no vocabulary.
            return table.new_empty(len(words.split()), table.shape[1])
        ids = torch.tensor(self.tokenizer.encode(words), device=table.device)
        return table[ids].detach().clone()

    def _reset_normally(self) -> None:
        """Initialise as BERT and ViT are: N(0, 0.02^2) for matrices and tables, zero for biases."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)
        embeds = [m for m in self.modules() if isinstance(m, TextEmbedding | ImageEmbedding)]
        for table in (embed.position for embed in embeds):
            nn.init.normal_(table, std=0.02)
        for embed in embeds:
            if isinstance(embed, ImageEmbedding):
                nn.init.normal_(embed.class_token, std=0.02)

    def _lengthened(self, text: TextBatch) -> TextBatch:
        """Under ``plain``, captions at their full length, as official code pads them."""
        if not self.plain:
            return text
        slots = text.slots.shape[1]
        return text.padded(max(self.caption_length + slots, text.ids.shape[1]), self.tokenizer.pad)

    def _embed(self, text: TextBatch, plan: StreamPlan) -> Tensor:
        """Embeddings with the plan's context in the slots: (C, L, D), or (G C, L, D) with one context an image."""
        check_slots(text, plan)
        x = self.text_embed(text.ids)
        if plan.context is None:
            return x
        context = plan.context.reshape((1,) * (4 - plan.context.dim()) + plan.context.shape)  # (G, 1 or C, n, D)
        return place(x[None], text.slots, self.text_embed.at(context, text.slots)).flatten(0, 1)

    def _padding(self, text: TextBatch, x: Tensor) -> Tensor | None:
        padding = text.padding
        return None if padding is None else padding.repeat(len(x) // len(padding), 1)

    def encode_image(self, images: Tensor, plan: StreamPlan = NOTHING) -> Tensor:
        """Image features before normalisation: (B, 3, H, W) -> (B, E)."""
        raise NotImplementedError

    def encode_text(self, text: TextBatch, plan: StreamPlan = NOTHING) -> Tensor:
        """Text features before normalisation: (C, E), or (G, C, E) where the plan's context has one set an image."""
        raise NotImplementedError

    # What backbones with a matching score add ----------------------------------------------------------------------

    def image_states(self, images: Tensor, plan: StreamPlan = NOTHING) -> Tensor:
        """Final hidden states of the class token and the patches, prompts left out: (B, 3, H, W) -> (B, M, D)."""
        raise NotImplementedError

    def pool_image(self, states: Tensor) -> Tensor:
        """Image features of image states: (B, M, D) -> (B, E)."""
        raise NotImplementedError

    def text_states(self, text: TextBatch, plan: StreamPlan = NOTHING) -> States:
        """Hidden states of texts by themselves."""
        raise NotImplementedError

    def pool_text(self, states: States) -> Tensor:
        """Text features of text states: (C, E)."""
        raise NotImplementedError

    def context(self, states: Tensor) -> Context:
        """What texts attend to in images, from image states (B, M, D)."""
        raise NotImplementedError

    def fuse(self, text: TextBatch, states: States | None, context: Context, plan: Plan) -> Tensor:
        """The first token's state of image-text pairs.

        Args:
            text: P texts.
            states: their states by themselves; needed where ``fuses_states``.
            context: of P images, or of fewer, each of which serves P / B consecutive texts.

        Shape:
            returns (P, D).
        """
        raise NotImplementedError

    def read(self, images: Tensor, text: TextBatch, plan: Plan, context: Context | None = None) -> Tensor:
        """States of the words of texts that are read with an image each.

        Args:
            context: the images as cross-attention reads them, where it is known already.

        Shape:
            images: (B, 3, H, W) with B texts; returns (B, L, D).
        """
        raise NotImplementedError

    def match(self, fused: Tensor) -> Tensor:
        """Logits of "no match" and "match": (P, D) -> (P, 2)."""
        raise NotImplementedError


def check_slots(text: TextBatch, plan: StreamPlan) -> None:
    """Check that a plan fits the template that the texts were made with.

    Raises:
        ValueError: it has another number of context vectors than the template has slots, or swaps tokens where the
            slots do not stand behind the start token.
    """
    slots = text.slots.shape[1]
    if plan.context is not None and plan.context.shape[-2] != slots:
        raise ValueError(f"the plan has {plan.context.shape[-2]} context vectors, but the template has {slots} slots")
    if plan.swaps and not text.leading:
        raise ValueError(
            "the plan swaps text tokens behind the start token, but the template's slots are not all there: "
            "put every [V] at its front"
        )
