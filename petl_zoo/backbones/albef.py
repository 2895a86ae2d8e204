"""ALBEF (Li et al., 2021, arXiv 2107.07651): a BERT whose lower half reads texts and whose upper half fuses."""

from __future__ import annotations

from collections.abc import Sequence

from registry import BACKBONES

from .base import Context, States, Stream
from .bert import BertFusion, LMHead
from .plan import Plan
from .text import TextBatch, Tokenizer


@BACKBONES.register_module()
class ALBEF(BertFusion):
    """ALBEF's ViT and its BERT: layers below ``fusion_layer`` are the text stream, the others the fusion stream.

    Fusion goes on from the text's own states, prompts included. Texts have no end token: the authors' tokenizer writes
    ``[CLS] X``.

    Source: Li et al. 2021; layer for layer as in the authors' release. Its VQA decoder has as many layers as the fusion
    stream and starts from it.
    """

    tokenizer_kind = "albef"
    fuses_states = True
    types = 2

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
        fusion_layer: int = 6,
        context_length: int = 512,
        vocabulary: int = 30522,
        embed_dim: int = 256,
        caption_length: int = 30,
        decoder: str | None = None,
        mlm: bool = False,
        dropout: float = 0.1,
        drop_path: float = 0.0,
        checkpoint: str | None = None,
        tokenizer: str | Tokenizer | None = None,
        allow_missing: Sequence[str] = (),
    ) -> None:
        """Make ALBEF at the given sizes, initialised as for pretraining; ``checkpoint`` is loaded by the model.

        Args:
            image_size: side of the image in pixels.
            patch_size: side of a patch in pixels.
            vision_width: D of the vision tower.
            text_width: D of the BERT and the decoder.
            text_layers: layers of the BERT, those of both streams.
            fusion_layer: index of the first layer with cross-attention.
            context_length: rows of the text's position table.
            vocabulary: number of token ids.
            embed_dim: E, width of the joint space.
            caption_length: most tokens of a caption, special ones included.
            decoder: ``text`` for a decoder of answers; None for none.
            mlm: whether there is a head that predicts masked words (pre-training).
            dropout: drop probability in the BERT, while training.
            drop_path: probability with which the last vision layer's branches are dropped.
            checkpoint: file, folder, hub id or ``zoo:`` name; see ``checkpoints``.
            tokenizer: folder or hub id, or a tokenizer; by default it is looked for beside the checkpoint.
            allow_missing: names of parameters, as shell patterns, that the checkpoint may lack; they keep their
                initialisation. Heads of other tasks may be missing anyway.

        Raises:
            ValueError: there is no layer below or none above ``fusion_layer``, or the decoder reads images.
        """
        if not 0 < fusion_layer < text_layers:
            raise ValueError(f"fusion_layer ({fusion_layer}) must be 1 to {text_layers - 1}, below text_layers")
        if decoder not in (None, "text"):
            raise ValueError(f"decoder ({decoder!r}) must be 'text' or None: ALBEF's decoder reads fused questions")
        fused = text_layers - fusion_layer
        super().__init__(
            image_size=image_size,
            patch_size=patch_size,
            vision_width=vision_width,
            vision_layers=vision_layers,
            vision_heads=vision_heads,
            text_width=text_width,
            text_layers=text_layers,
            text_heads=text_heads,
            cross_from=fusion_layer,
            context_length=context_length,
            vocabulary=vocabulary,
            embed_dim=embed_dim,
            caption_length=caption_length,
            decoder=decoder,
            decoder_layers=fused,
            tied=False,
            dropout=dropout,
            drop_path=drop_path,
            checkpoint=checkpoint,
            tokenizer=tokenizer,
            allow_missing=allow_missing,
        )
        self.fusion_layer = fusion_layer
        if mlm:
            self.lm_head = LMHead(text_width, vocabulary)
            self.reset_parameters()
        self.all_streams = {
            "vision": Stream("vision", vision_width, "vision", 0, vision_layers),
            "text": Stream("text", text_width, "text", 0, fusion_layer),
            "fusion": Stream("fusion", text_width, "text", fusion_layer, fused),
        }
        if decoder is not None:
            self.all_streams["decoder"] = Stream("decoder", text_width, "decoder", 0, fused)
        self.streams = self.all_streams

    def stream_of(self, parameter: str) -> str:
        if parameter.startswith("text.layers.") and int(parameter.split(".")[2]) >= self.fusion_layer:
            return "fusion"
        return super().stream_of(parameter)

    def fused_states(
        self, text: TextBatch, states: States | None, context: Context, plan: Plan, *, pooled: bool = False
    ) -> States:
        """Hidden states of image-text pairs, from the text's own states on."""
        if states is None:
            states = self.text_states(text, plan.of("text"))
        x = states.tokens
        return self._run(
            "fusion",
            x,
            states.padding,
            plan.of("fusion"),
            self._lengthened(text),
            context=self._paired(context, len(x)),
            pooled=pooled,
        )
