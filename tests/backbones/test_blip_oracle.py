"""transformers' BLIP as an oracle: the same random weights, the same numbers.

Its cross-attention drops the padding mask of what it attends to, and so texts there are equally long wherever a
decoder reads them; images have no padding.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import BlipConfig, BlipForImageTextRetrieval, BlipForQuestionAnswering, PreTrainedModel

from petl_zoo.backbones import BLIP, States, TextBatch
from petl_zoo.backbones.checkpoints import Loaded, load_checkpoint
from petl_zoo.backbones.plan import Plan

CLS, SEP, DEC, ENC, PAD = 56, 57, 58, 59, 0
TOKENIZER: Any = SimpleNamespace(start=CLS, end=SEP, pad=PAD, enc=ENC, dec=DEC)
IDS = [[CLS, 3, 17, SEP], [CLS, 5, SEP], [CLS, 3, 9, 20, 41, 8, SEP]]
EQUAL = [row[:1] + [11] * (7 - len(row)) + row[1:] for row in IDS]
TEXT_WIDTH = 24
VISION = {
    "hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": 3, "intermediate_size": 192,
    "image_size": 40, "patch_size": 8, "hidden_act": "gelu", "layer_norm_eps": 1e-6,
}  # fmt: skip
SIZES: dict[str, Any] = {
    "image_size": 40, "patch_size": 8, "vision_width": 48, "vision_layers": 3, "vision_heads": 3,
    "text_width": TEXT_WIDTH, "text_layers": 2, "text_heads": 4, "context_length": 13, "vocabulary": 60,
    "embed_dim": 20,
}  # fmt: skip


def oracle(kind: type[PreTrainedModel], folder: Path, text_width: int) -> PreTrainedModel:
    """Save a random model of the kind, and return it in float64."""
    text = {
        "hidden_size": text_width, "num_attention_heads": 4, "num_hidden_layers": 2,
        "intermediate_size": 4 * text_width, "vocab_size": 60, "max_position_embeddings": 13, "hidden_act": "gelu",
        "layer_norm_eps": 1e-12, "bos_token_id": DEC, "sep_token_id": SEP, "eos_token_id": SEP, "pad_token_id": PAD,
    }  # fmt: skip
    config = BlipConfig(vision_config=VISION, text_config=text, image_text_hidden_size=20)
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():  # Biases are zeros and norms ones at first, which would hide two that are swapped.
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model.double()


def ours(folder: Path, **options: Any) -> tuple[BLIP, Loaded]:
    backbone = BLIP(**{**SIZES, **options}, tokenizer=TOKENIZER).double().eval()
    return backbone, load_checkpoint(backbone, folder)


def images() -> Tensor:
    return torch.randn(3, 3, 40, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def batch(rows: list[list[int]]) -> TextBatch:
    end = torch.tensor([len(row) - 1 for row in rows])
    ids = torch.tensor([row + [PAD] * (7 - len(row)) for row in rows])
    return TextBatch(ids, torch.empty(len(rows), 0, dtype=torch.long), end, 1, 0, int((end + 1).sum()))


@torch.no_grad()
@pytest.mark.parametrize("plain", [False, True], ids=["fast", "plain"])
@pytest.mark.parametrize("rows", [IDS, EQUAL], ids=["padded", "equally long"])
def test_similarities_and_matching_logits(tmp_path: Path, rows: list[list[int]], plain: bool) -> None:
    model = oracle(BlipForImageTextRetrieval, tmp_path, TEXT_WIDTH)
    backbone, loaded = ours(tmp_path)
    backbone.plain, backbone.caption_length = plain, 9
    assert loaded.format == "Hugging Face BLIP"
    assert loaded.missing == ("temp",)
    text = batch(rows)
    mask = torch.ones_like(text.ids) if text.padding is None else text.padding.long()
    expected = model(text.ids, images(), attention_mask=mask, use_itm_head=False).itm_score
    similarities = normalize(backbone.encode_image(images())) @ normalize(backbone.encode_text(text)).T
    torch.testing.assert_close(similarities, expected, rtol=0, atol=1e-10)

    # The official evaluation puts [ENC] first; transformers leaves what the processor wrote.
    encoder = text.ids.clone()
    encoder[:, 0] = ENC
    context = backbone.context(backbone.image_states(images()))
    logits = backbone.match(backbone.fuse(text, backbone.text_states(text), context, Plan()))
    expected = model(encoder, images(), attention_mask=mask).itm_score
    assert expected.std() > 0.01
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-10)


@torch.no_grad()
def test_answers(tmp_path: Path) -> None:
    """The question encoder and the decoder, at equal widths: transformers' decoder reads vision's width."""
    model = oracle(BlipForQuestionAnswering, tmp_path, 48)
    backbone, loaded = ours(tmp_path, text_width=48, decoder="text")
    assert set(loaded.missing) == {
        "vision_proj.weight", "vision_proj.bias", "text_proj.weight", "text_proj.bias", "itm_head.weight",
        "itm_head.bias", "temp",
    }  # fmt: skip
    question, answer = batch(EQUAL), torch.tensor([[DEC, 4, 5, SEP], [DEC, 9, 8, SEP], [DEC, 7, 6, SEP]])
    image = model.vision_model(images()).last_hidden_state
    words = question.starting(ENC).ids
    encoded = model.text_encoder(words, encoder_hidden_states=image).last_hidden_state
    expected = model.text_decoder(answer, encoder_hidden_states=encoded, use_cache=False).logits

    context = backbone.context(backbone.image_states(images()))
    states = backbone.fused_states(question, None, context, Plan())
    torch.testing.assert_close(states.tokens, encoded, rtol=0, atol=1e-10)
    logits = backbone.decode(answer, None, States(states.tokens), Plan())
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-10)
