"""What backbones hold and tuners train, as exact integers worked out from the papers' sizes."""

from __future__ import annotations

import math
from typing import Any

import pytest

from petl_zoo.engine.counting import count_parameters

TOTAL = {
    "clip_vit_b16": 149_620_737,
    "clip_vit_b32": 151_277_313,
    "blip_base": 223_744_259,
    "blip_large": 446_128_643,
    "albef_base": 209_560_835,
    "beit3_base": 222_455_041,
    "beit3_large": 675_183_617,
}

# On ViT-B/16: 12 layers of 768 for vision, 12 layers of 512 for text, a joint space of 512.
CASES: list[tuple[str, dict[str, Any], int, dict[str, int]]] = [
    ("none", {}, 0, {}),
    ("coop", {}, 2_048, {"prompt": 2_048}),
    ("coop", {"tuner.length": 16, "tuner.init": None}, 8_192, {"prompt": 8_192}),
    (
        "coop",
        {"tuner.length": 16, "tuner.init": None, "tuner.class_specific": True},
        819_200,
        {"prompt": 819_200},
    ),
    ("cocoop", {}, 35_360, {"prompt": 2_048, "projection": 33_312}),
    ("vpt", {}, 73_728, {"prompt": 73_728}),
    ("ivlp", {"tuner.length": 4, "tuner.vision_depth": 0}, 24_576, {"prompt": 24_576}),
    ("ivlp", {}, 30_720, {"prompt": 30_720}),
    ("ivlp", {"tuner.length": 4, "tuner.depth": 9}, 46_080, {"prompt": 46_080}),
    ("maple", {}, 3_555_072, {"prompt": 9_216, "projection": 3_545_856}),
    ("maple", {"tuner.depth": 3}, 1_185_024, {"prompt": 3_072, "projection": 1_181_952}),
    ("mpl", {}, 6_702_336, {"prompt": 4_608, "projection": 6_697_728}),
    ("mpl", {"tuner.depth": 3}, 1_971_456, {"prompt": 1_536, "projection": 1_969_920}),
    ("lora", {}, 245_760, {"low_rank": 245_760}),
    ("linear_probe", {}, 51_300, {"head": 51_300}),
    ("full", {}, 149_620_737, {"backbone": 149_620_737}),
]


@pytest.mark.parametrize(("tuner", "options", "trainable", "roles"), CASES)
def test_counts_on_vit_b16(tuner: str, options: dict[str, Any], trainable: int, roles: dict[str, int]) -> None:
    counted = count_parameters("clip_vit_b16", tuner, options)
    assert counted["trainable"] == trainable
    assert counted["by_role"] == roles
    added = 0 if tuner == "full" else trainable
    assert counted["total"] == TOTAL["clip_vit_b16"] + added


@pytest.mark.parametrize("backbone", sorted(TOTAL))
def test_backbones_are_of_their_authors_sizes(backbone: str) -> None:
    assert count_parameters(backbone, "none")["total"] == TOTAL[backbone]


def test_streams_of_the_tuned_parameters() -> None:
    assert count_parameters("clip_vit_b16", "ivlp")["by_stream"] == {"text": 12_288, "vision": 18_432}
    assert count_parameters("clip_vit_b16", "maple")["by_stream"] == {"text": 9_216, "joint": 3_545_856}
    assert count_parameters("clip_vit_b16", "lora")["by_stream"] == {"vision": 147_456, "text": 98_304}


# BLIP, ALBEF and BEiT-3, piece by piece -------------------------------------------------------------------------------

VIT_B = 86_090_496  # at 384 pixels: patches 590,592, class token 768, 577 positions, 12 layers, LayerNorm
BERT_LAYER, CROSS = 7_087_872, 2_363_904  # at width 768; cross-attention with its LayerNorm
BERT_WORDS = 30_524 * 768 + 512 * 768 + 2 * 768  # words, positions, LayerNorm
PROJECTION, MATCHING = 768 * 256 + 256, 768 * 2 + 2
HEADS = 2 * PROJECTION + MATCHING
LM_HEAD = 768 * 768 + 768 + 2 * 768 + 30_524  # its matrix is the words'


def by_stream(backbone: str) -> dict[str, int]:
    """All parameters of the retrieval model by stream."""
    counted = count_parameters(backbone, "full")
    assert counted["trainable"] == counted["total"] == TOTAL[backbone]
    streams: dict[str, int] = counted["by_stream"]
    return streams


def test_blip_is_a_vit_and_a_bert_with_cross_attention_everywhere() -> None:
    assert HEADS == 395_266
    assert by_stream("blip_base") == {
        "vision": VIT_B + PROJECTION,
        "text": BERT_WORDS + 12 * BERT_LAYER + PROJECTION,
        "fusion": 12 * CROSS + MATCHING,
        "joint": 1,
    }


def test_albef_is_a_vit_and_a_bert_with_cross_attention_in_its_upper_half() -> None:
    words = BERT_WORDS - 2 * 768 + 2 * 768  # two words fewer, two segment types more
    assert by_stream("albef_base") == {
        "vision": VIT_B + PROJECTION,
        "text": words + 6 * BERT_LAYER + PROJECTION,
        "fusion": 6 * (BERT_LAYER + CROSS) + MATCHING,
        "joint": 1,
    }


@pytest.mark.parametrize(("backbone", "width", "layers"), [("beit3_base", 768, 12), ("beit3_large", 1024, 24)])
def test_beit3_has_every_part_of_a_layer_twice(backbone: str, width: int, layers: int) -> None:
    attention, network = 4 * (width**2 + width) + 2 * width, 8 * width**2 + 5 * width + 2 * 4 * width
    expert = layers * (attention + network + 2 * 2 * width) + 2 * width
    patches = 3 * 16 * 16 * width + width + width + 577 * width
    assert by_stream(backbone) == {
        "vision": expert + patches + width**2,
        "text": expert + (64_010 + 1_022) * width + width**2,
        "joint": 1,
    }


# The tables of DoPL's paper (ACL 2025) --------------------------------------------------------------------------------


def prints(count: int, printed: str) -> bool:
    """Whether a count is what a table prints, such as ``10.6M``, by rounding or by cutting digits off."""
    digits = printed.removesuffix("M")
    unit = 10 ** (6 - len(digits.partition(".")[2]))
    value = round(float(digits) * 1e6 / unit)
    return value in (math.floor(count / unit), math.floor(count / unit + 0.5))


def test_what_a_table_prints() -> None:
    assert prints(10_616_832, "10.6M")
    assert prints(223_744_259, "223M"), "cut off"
    assert prints(223_744_259, "224M"), "rounded"
    assert not prints(225_000_000, "224M")
    assert not prints(10_549_999, "10.6M")


def test_full_fine_tuning_of_clip_is_of_vit_b32() -> None:
    # Table 5 prints 151.3M. The few-shot literature has ViT-B/16, which is smaller.
    assert prints(TOTAL["clip_vit_b32"], "151.3M")
    assert not prints(TOTAL["clip_vit_b16"], "151.3M")


def test_full_fine_tuning_of_blip_is_of_the_model_without_its_momentum_copy() -> None:
    # Tables 1 and 6 print 223M: 223.7M, cut off.
    assert prints(TOTAL["blip_base"], "223M")


def test_full_fine_tuning_of_blip_for_questions_counts_embeddings_once() -> None:
    # Tables 2 and 6 print 337M. The authors' model for questions has a decoder with words of its own and no retrieval
    # heads: 361.5M. Without the decoder's words it is 337.6M, as if they were shared with the question encoder.
    options = {"backbone.decoder": "text", "backbone.image_size": 480}
    ours = count_parameters("blip_base", "none", options)["total"]
    positions = 901 - 577
    assert ours == TOTAL["blip_base"] + positions * 768 + BERT_WORDS + 12 * (BERT_LAYER + CROSS) + LM_HEAD
    assert ours - HEADS - 1 == 361_478_972
    assert prints(ours - HEADS - 1 - BERT_WORDS, "337M")


def test_full_fine_tuning_of_albef_is_counted_with_its_momentum_copy_once_and_without_once() -> None:
    # Table 1 prints 210M. Table 5 prints 419.3M, twice that: the momentum copy has all but the matching head and the
    # temperature, which makes 419.1M. The 0.2M that are left over are not explained.
    assert prints(TOTAL["albef_base"], "210M")
    both = 2 * TOTAL["albef_base"] - MATCHING - 1
    assert both == 419_120_131
    assert abs(both - 419.3e6) < 0.2e6


def test_full_fine_tuning_of_beit3_large_is_of_the_pretraining_model() -> None:
    # Table 5 prints 746M, what the authors of BEiT-3 print for their pre-training file, and 276M for the base one: the
    # encoder and two heads, over the 64,010 words and over the 8,192 visual words of its tokenizer. What is fine-tuned
    # for retrieval, with two projections instead, is 675M (222M).
    sizes = (("beit3_large", 1024, "746M", "675M"), ("beit3_base", 768, "276M", "222M"))
    for backbone, width, printed, retrieval in sizes:
        encoder = TOTAL[backbone] - 2 * width**2 - 1
        smaller = (576 - 196) * width  # It is of 224 pixels.
        unread = 4 * width + width  # the position tables' first two rows, and the mask of patches
        heads = (64_010 + 8_192) * (width + 1)
        assert prints(encoder - smaller + unread + heads, printed)
        assert prints(TOTAL[backbone], retrieval)


def test_full_fine_tuning_of_blip_large_is_not_explained() -> None:
    # Table 5 prints 591M. Retrieval is 446M, questions at 480 pixels 584M with the retrieval heads, retrieval with its
    # momentum copy 892M.
    options = {"backbone.decoder": "text", "backbone.image_size": 480}
    questions = count_parameters("blip_large", "none", options)["total"]
    assert questions == 584_341_567
    assert not any(prints(count, "591M") for count in (TOTAL["blip_large"], questions, 2 * TOTAL["blip_large"]))


LINEARS = ["attn.q", "attn.k", "attn.v", "attn.out", "fc1", "fc2"]
# Rank 32 on every Linear of ViT and of BERT's self-attention and feed-forward network.
LORA = {"tuner.rank": 32, "tuner.targets": LINEARS}
# Backbone, tuner, options -> what is trained, and what Tables 1 and 6 print of it on BLIP-base.
PUBLISHED: list[tuple[str, str, dict[str, Any], int, str | None]] = [
    ("blip_base", "lora", LORA, 10_616_832, "10.6M"),
    ("albef_base", "lora", {**LORA, "tuner.streams": ["vision", "text", "fusion"]}, 10_616_832, None),
    ("blip_large", "lora", LORA, 19_464_192, None),
    ("beit3_large", "lora", LORA, 28_311_552, None),  # both experts
    # Length 8 in 9 layers; ALBEF has 6 layers of text alone.
    ("blip_base", "maple", {"tuner.length": 8, "tuner.depth": 9}, 5_370_624, "5.4M"),
    ("albef_base", "maple", {"tuner.length": 8, "tuner.depth": 6}, 3_580_416, None),
    ("blip_large", "maple", {"tuner.length": 8, "tuner.depth": 9}, 7_142_400, None),
    ("beit3_large", "maple", {"tuner.length": 8, "tuner.depth": 9}, 9_520_128, None),
    # 36 adapters, the heads, and UniAdapter's change of keys and values: 28.95M, cut off.
    ("blip_base", "adapter", {"tuner.rank": 512, "tuner.heads": True, "tuner.cross_rank": 64}, 28_951_172, "28.9M"),
    ("blip_base", "uniadapter_r512", {}, 19_520_132, "19.5M"),
    ("blip_base", "aurora_r64", {}, 609_538, "0.6M"),
]


@pytest.mark.parametrize(("backbone", "tuner", "options", "trainable", "printed"), PUBLISHED)
def test_counts_of_published_settings(
    backbone: str, tuner: str, options: dict[str, Any], trainable: int, printed: str | None
) -> None:
    assert count_parameters(backbone, tuner, options)["trainable"] == trainable
    assert printed is None or prints(trainable, printed)
