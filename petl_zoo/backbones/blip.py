"""BLIP (Li et al., 2022, arXiv 2201.12086): one BERT that reads texts alone, reads them with an image, or writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from registry import BACKBONES

from .base import Context, States, Stream
from .bert import BertFusion
from .plan import Plan
from .text import FusionTokenizer, TextBatch, Tokenizer


@BACKBONES.register_module()
class BLIP(BertFusion):
    """BLIP's ViT and its mixture of encoder and decoder (MED).

    The text stream skips cross-attention; the fusion stream runs the same layers with it, over the same words behind
    ``[ENC]`` instead of ``[CLS]``. A tuner that prompts text and says nothing of fusion prompts both passes alike.

    Source: Li et al. 2022; layer for layer as in the authors' release: cross-attention in every layer, no segment
    types, the ``[ENC]`` token in retrieval (their ``blip_itm.py`` leaves ``[CLS]``, their training does not).
    """

    tokenizer_kind = "blip"
    adds_similarity = True

    def __init__(
        self,
        *,
        image_size: int = 384,
        patch_size: int = 16,
        vision_width: int = 768,
        vision_layers: int = 12,
        vision_heads: int = 12,
        text_width: int = 768,
        text_layers: int = 12,
        text_heads: int = 12,
        context_length: int = 512,
        vocabulary: int = 30524,
        embed_dim: int = 256,
        caption_length: int = 35,
        decoder: str | None = None,
        tied: bool = False,
        dropout: float = 0.1,
        drop_path: float = 0.0,
        checkpoint: str | None = None,
        tokenizer: str | Tokenizer | None = None,
        allow_missing: Sequence[str] = (),
    ) -> None:
        """Make BLIP at the given sizes, initialised as for pretraining; ``checkpoint`` is loaded by the model.

        Args:
            image_size: side of the image in pixels.
            patch_size: side of a patch in pixels.
            vision_width: D of the vision tower.
            text_width: D of the text tower, its fusion pass and the decoder.
            context_length: rows of the text's position table.
            vocabulary: number of token ids, ``[DEC]`` and ``[ENC]`` included.
            embed_dim: E, width of the joint space.
            caption_length: most tokens of a caption, special ones included.
            decoder: whether there is a decoder, and what it attends to: ``image`` for captions (pre-training), ``text``
                for answers to questions (VQA).
            tied: share all of the decoder but its self-attention with the text tower, as the pre-training model does.
            dropout: drop probability in the text tower, while training.
            drop_path: probability with which the last vision layer's branches are dropped.
            checkpoint: file, folder, hub id or ``zoo:`` name; see ``checkpoints``.
            tokenizer: folder or hub id, or a tokenizer; by default it is looked for beside the checkpoint.
            allow_missing: names of parameters, as shell patterns, that the checkpoint may lack; they keep their
                initialisation. Heads of other tasks may be missing anyway.
        """
        super().__init__(
            image_size=image_size,
            patch_size=patch_size,
            vision_width=vision_width,
            vision_layers=vision_layers,
            vision_heads=vision_heads,
            text_width=text_width,
            text_layers=text_layers,
            text_heads=text_heads,
            cross_from=0,
            context_length=context_length,
            vocabulary=vocabulary,
            embed_dim=embed_dim,
            caption_length=caption_length,
            decoder=decoder,
            decoder_layers=text_layers,
            tied=tied,
            dropout=dropout,
            drop_path=drop_path,
            checkpoint=checkpoint,
            tokenizer=tokenizer,
            allow_missing=allow_missing,
        )
        self.all_streams = {
            "vision": Stream("vision", vision_width, "vision", 0, vision_layers),
            "text": Stream("text", text_width, "text", 0, text_layers),
            "fusion": Stream("fusion", text_width, "text", 0, text_layers),
        }
        if decoder is not None:
            self.all_streams["decoder"] = Stream("decoder", text_width, "decoder", 0, text_layers)
        self.streams = self.all_streams

    def fused_states(
        self, text: TextBatch, states: States | None, context: Context, plan: Plan, *, pooled: bool = False
    ) -> States:
        """Hidden states of image-text pairs, from the words on: ``states`` of the text alone are not used."""
        text = self._lengthened(text.starting(cast(FusionTokenizer, self.tokenizer).enc))
        words, where = plan.of("text"), plan.streams.get("fusion")
        x = self._embed(text, words if where is None or where.context is None else where)
        return self._run(
            "fusion",
            x,
            self._padding(text, x),
            words if where is None else where,
            text,
            context=self._paired(context, len(x)),
            pooled=pooled,
        )
