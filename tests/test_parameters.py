"""What backbones hold and tuners train, as exact integers worked out from the papers' sizes, and the page of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from petl_zoo.backbones import Backbone
from petl_zoo.engine.counting import BASES, base, count_parameters
from petl_zoo.engine.parameters import PRINTED, PRINTED_PREFACE, Printed, Setting, render, settings, verdict
from petl_zoo.heads import RetrievalHead
from petl_zoo.model import VLModel
from petl_zoo.tuners import Aurora, DoPL, Tuner
from tools import params as tool

TOTAL = {
    "clip_vit_b16": 149_620_737,
    "clip_vit_b32": 151_277_313,
    "blip_base": 223_744_259,
    "blip_large": 446_128_643,
    "albef_base": 209_560_835,
    "beit3_base": 222_455_041,
    "beit3_large": 675_183_617,
}
# BLIP, ALBEF and BEiT-3, piece by piece.
VIT_B = 86_090_496  # at 384 pixels: patches 590,592, class token 768, 577 positions, 12 layers, LayerNorm
BERT_LAYER, CROSS = 7_087_872, 2_363_904  # at width 768; cross-attention with its LayerNorm
BERT_WORDS = 30_524 * 768 + 512 * 768 + 2 * 768  # words, positions, LayerNorm
ALBEF_WORDS = BERT_WORDS - 2 * 768 + 2 * 768  # two words fewer, two segment types more
PROJECTION, MATCHING = 768 * 256 + 256, 768 * 2 + 2
HEADS = 2 * PROJECTION + MATCHING
LM_HEAD = 768 * 768 + 768 + 2 * 768 + 30_524  # its matrix is the words'
# Of tuners, on BLIP-base.
PAIR = 2 * (2 * 768 * 64 + 64 + 768 + 1)  # UniAdapter's change of keys and values
UNIADAPTER = 12 * (1_536 + 393_728 + 3 * 393_984)  # of rank 512: a layer's LayerNorm, Down and three Ups
AURORA = 2 * 768 * 64 + 64**3 + 12 * (4 + 8) * 64 + 12 * 6 * 64  # of rank 64, without the query transformation
GATES = 12 * 4 * 768
BOTTLENECK = {width: 2 * width * 64 + 64 + width for width in (512, 768, 1024)}  # of rank 64, with biases

LINEARS = ["attn.q", "attn.k", "attn.v", "attn.out"]
RANDOM = {"tuner.length": 16, "tuner.init": None}
UNOFFICIAL = {"tuner.official": False}
HEADLESS = {"tuner.heads": False}
ADAPTER = {"tuner.rank": 512, "tuner.heads": True, "tuner.cross_rank": 64}
LOWRANK = {"tuner.mapping": "lowrank", "tuner.source_dim": 768}
ALBEF_DEPTHS = {"tuner.depth.vision": 9, "tuner.depth.text": 6, "tuner.depth.fusion": 6}

# Backbone, tuner, options of its base file that are changed -> what is trained.
COUNTS: list[tuple[str, str, dict[str, Any], int]] = [
    # 12 layers of 768 for vision, 12 layers of 512 for text, a joint space of 512; 100 classes.
    ("clip_vit_b16", "none", {}, 0),
    ("clip_vit_b16", "full", {}, 149_620_737),
    ("clip_vit_b16", "bitfit", {}, 171_008),
    ("clip_vit_b16", "linear_probe", {}, 51_300),
    ("clip_vit_b16", "coop", {}, 2_048),
    ("clip_vit_b16", "coop", RANDOM, 8_192),
    ("clip_vit_b16", "coop", {**RANDOM, "tuner.class_specific": True}, 819_200),
    ("clip_vit_b16", "cocoop", {}, 35_360),
    ("clip_vit_b16", "vpt", {}, 73_728),
    ("clip_vit_b16", "vpt", {"tuner.depth": 1}, 6_144),
    ("clip_vit_b16", "ivlp", {"tuner.length": 4, "tuner.vision_depth": 0}, 24_576),
    ("clip_vit_b16", "ivlp", {}, 30_720),
    ("clip_vit_b16", "ivlp", {"tuner.length": 4, "tuner.depth": 9}, 46_080),
    ("clip_vit_b16", "promptsrc", {}, 46_080),
    ("clip_vit_b16", "maple", {}, 3_555_072),
    ("clip_vit_b16", "maple", {"tuner.depth": 3}, 1_185_024),
    ("clip_vit_b16", "mpl", {}, 6_702_336),
    ("clip_vit_b16", "mpl", {"tuner.depth": 3}, 1_971_456),
    ("clip_vit_b16", "bloom", {}, 7_112_448 + 36),  # with its gates
    ("clip_vit_b16", "mmlop", {}, 11_556),
    ("clip_vit_b16", "mmlop", {"tuner.length": 2}, 11_538),
    ("clip_vit_b16", "clip_adapter", {}, 131_072),
    ("clip_vit_b16", "mma", {}, 674_560),
    ("clip_vit_b16", "lora", {}, 245_760),
    ("clip_vit_b16", "lora", {"tuner.rank": 8}, 491_520),
    ("clip_vit_b16", "lora", {"tuner.rank": 32, "tuner.targets": LINEARS}, 3_932_160),
    ("clip_vit_b16", "lora_r32", {}, 8_847_360),
    ("clip_vit_b16", "dora", {}, 245_760 + 2 * 12 * (768 + 512)),
    ("clip_vit_b16", "adapter", {}, 1_982_976),
    # Down and one Up of rank 128, and a LayerNorm, for each of two widths.
    ("clip_vit_b16", "uniadapter", HEADLESS, 12 * (2 * 1_280 * 128 + 2 * 128 + 3 * 1_280)),
    ("clip_vit_b16", "aurora_r64", HEADLESS, 2 * 1_280 * 64 + 64**3 + 12 * (12 + 3) * 64),
    ("clip_vit_b16", "dopl", {"tuner.source_dim": 13}, 161_384),
    ("clip_vit_b16", "dopl", {}, 138_328),
    ("clip_vit_b16", "dopl", LOWRANK, 158_208),
    # 12 layers of 768 for vision, and 12 for text that fusion runs too.
    ("blip_base", "dopl", {"tuner.streams": ["vision"]}, 83_032),
    ("blip_base", "dopl", {"tuner.streams": ["text"]}, 83_032),
    ("blip_base", "dopl", {"tuner.streams": ["fusion"]}, 83_032),
    ("blip_base", "dopl", {"tuner.streams": ["vision", "text"]}, 165_976),
    ("blip_base", "dopl", {}, 248_920),
    ("blip_base", "dopl", {"tuner.source_dim": 8, "tuner.depth": 12}, 248_896),
    ("blip_base", "dopl", LOWRANK, 254_976),
    ("blip_base", "dopl", {"tuner.mapping": "none"}, 165_888),
    ("blip_base", "maple_len8", {}, 5_370_624),
    ("blip_base", "bloom_len8", {}, 3_538_944 + 36),  # with its gates
    ("blip_base", "lora_r32", {}, 10_616_832),
    ("blip_base", "dora_r32", {}, 10_782_720),
    ("blip_base", "adapter", {"tuner.rank": 512}, 28_357_632),
    ("blip_base", "adapter", {"tuner.rank": 512, "tuner.heads": True}, 28_752_898),
    ("blip_base", "adapter", ADAPTER, 28_951_172),
    ("blip_base", "adapter", {"tuner.streams": ["fusion"]}, 12 * BOTTLENECK[768]),
    ("blip_base", "uniadapter_r512", {}, 19_520_132),
    ("blip_base", "uniadapter_r512", UNOFFICIAL, 19_520_132 + 12 * 1_536),
    ("blip_base", "uniadapter_r512", HEADLESS, UNIADAPTER + PAIR),
    ("blip_base", "uniadapter_r512", {"tuner.cross_rank": None}, UNIADAPTER + HEADS),
    ("blip_base", "uniadapter", {"tuner.official": True}, 4_766_208 + PAIR + HEADS),
    ("blip_base", "aurora_r64", {}, 609_538),
    ("blip_base", "aurora_r64", UNOFFICIAL, 609_538 + PROJECTION),
    ("blip_base", "aurora_r64", HEADLESS, 411_136),
    ("blip_base", "aurora_r64", {**HEADLESS, "tuner.query_transformation": False}, AURORA),
    ("blip_base", "aurora", HEADLESS, 125_696),
    ("blip_base", "aurora", {"tuner.official": True}, 324_098),
    # 12 layers of 768 for vision, 6 for text, 6 more for fusion.
    ("albef_base", "dopl", {"tuner.source_dim": 10, **ALBEF_DEPTHS}, 177_488),
    ("albef_base", "maple_len8", {"tuner.depth": 6}, 3_580_416),
    ("albef_base", "lora_r32", {}, 10_616_832),
    ("albef_base", "dora_r32", {}, 10_616_832 + 165_888),
    ("albef_base", "adapter", {}, (12 + 6 + 6) * BOTTLENECK[768]),
    ("albef_base", "uniadapter_r512", {}, UNIADAPTER - 6 * 393_984 + PAIR + HEADS),
    ("albef_base", "aurora_r64", {}, 609_538 - 6 * 3 * 64 - 6 * 4 * 768),
    # 24 layers of 1024 for vision, 12 of 768 for text that fusion runs too.
    ("blip_large", "dopl", {"tuner.source_dim": 14}, 483_952),
    ("blip_large", "dopl", {"tuner.source_dim": 15}, 516_216),
    ("blip_large", "maple_len8", {}, 7_142_400),
    ("blip_large", "lora_r32", {}, 19_464_192),
    ("blip_large", "dora_r32", {}, 19_464_192 + 304_128),
    ("blip_large", "adapter", {}, 24 * BOTTLENECK[1024] + 24 * BOTTLENECK[768]),
    # 24 layers of 1024 with an expert for each; retrieval runs vision and text.
    ("beit3_large", "dopl", {"tuner.source_dim": 8}, 8 * 8 + 2 * 18 * 9 * 1_024),
    ("beit3_large", "dopl", {"tuner.source_dim": 13}, 516_200),
    ("beit3_large", "maple_len8", {}, 9_520_128),
    ("beit3_large", "lora_r32", {}, 28_311_552),
    ("beit3_large", "dora_r32", {}, 28_311_552 + 442_368),
    ("beit3_base", "adapter", {}, (12 + 12) * BOTTLENECK[768]),
    # Both experts have a vector wherever their stream has one; there is no cross-attention.
    ("beit3_base", "aurora_r64", HEADLESS, 2 * 768 * 64 + 64**3 + 12 * (12 + 3) * 64),
]


@pytest.mark.parametrize(("backbone", "tuner", "options", "trainable"), COUNTS)
def test_counts(backbone: str, tuner: str, options: dict[str, Any], trainable: int) -> None:
    counted = count_parameters(backbone, tuner, options)
    assert counted["trainable"] == trainable
    assert sum(counted["by_role"].values()) == sum(counted["by_stream"].values()) == trainable


@pytest.mark.parametrize(
    ("tuner", "roles"),
    [
        ("none", {}),
        ("full", {"backbone": 149_620_737}),
        ("bitfit", {"bias": 171_008}),
        ("linear_probe", {"head": 51_300}),
        ("coop", {"prompt": 2_048}),
        ("cocoop", {"prompt": 2_048, "projection": 33_312}),
        ("ivlp", {"prompt": 30_720}),
        ("maple", {"prompt": 9_216, "projection": 3_545_856}),
        ("mpl", {"prompt": 4_608, "projection": 6_697_728}),
        ("lora", {"low_rank": 245_760}),
        ("adapter", {"adapter": 1_982_976}),
        ("dopl", {"prompt": 88, "projection": 138_240}),
    ],
)
def test_roles_of_the_tuned_parameters(tuner: str, roles: dict[str, int]) -> None:
    assert count_parameters("clip_vit_b16", tuner)["by_role"] == roles


@pytest.mark.parametrize(
    ("tuner", "roles"),
    [
        ("uniadapter_r512", {"adapter": UNIADAPTER + PAIR, "head": HEADS}),
        ("aurora_r64", {"low_rank": AURORA, "adapter": GATES, "head": HEADS - PROJECTION}),
    ],
)
def test_roles_with_heads(tuner: str, roles: dict[str, int]) -> None:
    assert count_parameters("blip_base", tuner)["by_role"] == roles


@pytest.mark.parametrize(
    ("tuner", "streams"),
    [
        ("ivlp", {"text": 12_288, "vision": 18_432}),
        ("maple", {"text": 9_216, "joint": 3_545_856}),
        ("lora", {"vision": 147_456, "text": 98_304}),
    ],
)
def test_streams_of_the_tuned_parameters(tuner: str, streams: dict[str, int]) -> None:
    assert count_parameters("clip_vit_b16", tuner)["by_stream"] == streams


@pytest.mark.parametrize(
    ("tuner", "added"),
    [
        ("none", 0),
        ("full", 0),
        ("maple_len8", 5_370_624),
        ("uniadapter_r512", UNIADAPTER + PAIR + 12 * 1_536),  # Heads are the backbone's; the fused LayerNorm is frozen.
    ],
)
def test_total_is_what_is_added_to_the_backbone(tuner: str, added: int) -> None:
    assert count_parameters("blip_base", tuner)["total"] == TOTAL["blip_base"] + added


# Whole models ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", sorted(TOTAL))
def test_backbones_are_of_their_authors_sizes(backbone: str) -> None:
    assert count_parameters(backbone, "none")["total"] == TOTAL[backbone]


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
    assert by_stream("albef_base") == {
        "vision": VIT_B + PROJECTION,
        "text": ALBEF_WORDS + 6 * BERT_LAYER + PROJECTION,
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


# What papers print ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "printed", "expected"),
    [
        (10_616_832, "10.6M", "by rounding"),
        (223_744_259, "224M", "by rounding"),
        (223_744_259, "223M", "by truncation"),
        (165_976, "0.16M", "by truncation"),
        (165_976, "0.17M", "by rounding"),
        (11_556, "11.5K", "by truncation"),
        (11_538, "11.5K", "by rounding"),
        (10_650_000, "10.6M", "by rounding"),  # half a unit above, and half a unit below
        (10_550_000, "10.6M", "by rounding"),
        (10_549_999, "10.6M", "differs"),
        (225_000_000, "224M", "differs"),
        (222_400_000, "223M", "differs"),
        (223_000_000, "223M", "equal"),
        (35_360, "35,360", "equal"),
        (35_361, "35,360", "differs"),
    ],
)
def test_verdict(count: int, printed: str, expected: str) -> None:
    assert verdict(count, printed) == expected


def test_what_papers_print_is_counted_here_too() -> None:
    """The exact integer of each of the page's rows is in this file."""
    rows = [(s.backbone, s.tuner, dict(s.options)) for s in PRINTED if s.tuner != "none"]
    assert rows
    assert [row for row in rows if row not in [known[:3] for known in COUNTS]] == []


@pytest.fixture(scope="module")
def compared() -> list[tuple[Printed, int]]:
    return [(setting, setting.count()) for setting in PRINTED]


def test_what_differs_says_why(compared: list[tuple[Printed, int]]) -> None:
    assert [s for s, count in compared if verdict(count, s.printed) == "differs" and not s.why] == []


def test_dopls_share_is_not_of_blip() -> None:
    # The abstract and section 4.3 print 0.12%.
    assert f"{248_920 / TOTAL['blip_base']:.2%}" == "0.11%"
    assert f"{248_920 / TOTAL['albef_base']:.2%}" == "0.12%"


class EveryStream(RetrievalHead):
    """Runs every stream, for the tuner to adapt."""

    def uses(self, backbone: Backbone) -> frozenset[str]:
        return frozenset(backbone.all_streams)


def trained(tuner: Tuner, backbone: str, **options: Any) -> int:
    """What is trained where every stream is run, which no head of retrieval does."""
    config = {**base("backbones", backbone).backbone.to_dict(), **options, "checkpoint": None}
    with torch.device("meta"):
        return VLModel(config, tuner, EveryStream()).count().trainable


def test_aurora_for_questions_has_a_decoder_and_no_heads() -> None:
    decoder = 12 * 6 * 64 + GATES
    count = trained(Aurora(rank=64, heads=False), "blip_base", decoder="text", image_size=480)
    assert count == AURORA + GATES + decoder == 452_608


def test_dopl_on_beit3_with_prompts_for_fusion() -> None:
    assert trained(DoPL(source_dim=8), "beit3_large") == 8 * 8 + 3 * 18 * 9 * 1_024 == 497_728


def test_full_fine_tuning_of_clip_is_of_vit_b32() -> None:
    # DoPL's table 5 prints 151.3M. The few-shot literature has ViT-B/16, which is smaller.
    assert verdict(TOTAL["clip_vit_b32"], "151.3M") == "by rounding"
    assert verdict(TOTAL["clip_vit_b16"], "151.3M") == "differs"


@pytest.mark.parametrize(("backbone", "words", "printed"), [
    ("blip_base", BERT_WORDS, "337M"),
    ("albef_base", ALBEF_WORDS, "266M"),
])  # fmt: skip
def test_full_fine_tuning_for_questions_counts_embeddings_once(backbone: str, words: int, printed: str) -> None:
    # DoPL's tables 2 and 6. The authors' models for questions have a decoder with words of its own and no retrieval
    # heads: 361.5M and 290.6M. Without the decoder's words they are as printed, as if the encoder's were shared.
    options = {"backbone.decoder": "text", "backbone.image_size": 480}
    layers, head = (12, LM_HEAD) if backbone == "blip_base" else (6, LM_HEAD - 2)
    ours = count_parameters(backbone, "none", options)["total"]
    positions = 901 - 577
    assert ours == TOTAL[backbone] + positions * 768 + words + layers * (BERT_LAYER + CROSS) + head
    assert verdict(ours - HEADS - 1, printed) == "differs"
    assert verdict(ours - HEADS - 1 - words, printed) == "by truncation"


def test_full_fine_tuning_of_albef_is_counted_with_its_momentum_copy_once_and_without_once() -> None:
    # Table 1 prints 210M. Table 5 prints 419.3M, twice that: the momentum copy has all but the matching head and the
    # temperature, which makes 419.1M. The 0.2M that are left over are not explained.
    assert verdict(TOTAL["albef_base"], "210M") == "by rounding"
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
        assert verdict(encoder - smaller + unread + heads, printed) != "differs"
        assert verdict(TOTAL[backbone], retrieval) != "differs"


def test_full_fine_tuning_of_blip_large_is_not_explained() -> None:
    # Table 5 prints 591M. Retrieval is 446M, questions at 480 pixels 584M with the retrieval heads, retrieval with its
    # momentum copy 892M.
    options = {"backbone.decoder": "text", "backbone.image_size": 480}
    questions = count_parameters("blip_large", "none", options)["total"]
    assert questions == 584_341_567
    counts = TOTAL["blip_large"], questions, 2 * TOTAL["blip_large"]
    assert {verdict(count, "591M") for count in counts} == {"differs"}


# The page and its tool ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page() -> str:
    text: str = tool.PAGE.read_text(encoding="utf-8")
    return text


def tabled(page: str) -> dict[tuple[str, str], int | str]:
    """What the page's tables say of a backbone and a tuner: a count, or a reason."""
    notes = dict(re.findall(r"^\[\^(\d+)\]: (.*)\.$", page, flags=re.MULTILINE))
    found: dict[tuple[str, str], int | str] = {}
    columns: list[str] = []
    for line in page.partition(PRINTED_PREFACE)[0].splitlines():
        name, *cells = line.strip("| ").split(" | ")
        if name == "tuner":
            columns = cells
        elif line.startswith("| ") and not name.startswith("---"):
            for column, cell in zip(columns, cells, strict=True):
                note = re.fullmatch(r"—\[\^(\d+)\]", cell)
                found[column, name] = notes[note[1]] if note else int(cell.replace(",", ""))
    return found


def test_the_page_has_every_tuner_on_every_backbone(page: str) -> None:
    names = [[file.stem for file in BASES.glob(f"{kind}/*.py")] for kind in ("backbones", "tuners")]
    every = {(backbone, tuner) for backbone in names[0] for tuner in names[1]}
    assert set(tabled(page)) == every, "make it anew with python tools/params.py --all"
    assert [s for s in settings() if isinstance(s, Printed)] == list(PRINTED)


@pytest.mark.parametrize("backbone", ["clip_tiny", "clip_vit_b16", "blip_base"])
def test_the_pages_counts_are_right(page: str, backbone: str) -> None:
    """Of three backbones; all of them would take a minute."""
    shown = tabled(page)
    for setting in (s for s in settings() if s.backbone == backbone and not isinstance(s, Printed)):
        count, said = setting.count(), shown[backbone, setting.tuner]
        right = count.startswith(str(said)) if isinstance(count, str) else count == said
        assert right, f"{setting.tuner}: make it anew with python tools/params.py --all"


def test_the_page_compares_what_papers_print(page: str, compared: list[tuple[Printed, int]]) -> None:
    _, preface, rest = render(compared).partition(PRINTED_PREFACE)
    assert page.endswith(preface + rest), "make it anew with python tools/params.py --all"


def test_reasons_are_shared_and_mends_left_out() -> None:
    reason = "depth (9) is more than the text stream's {} layers: use 1 to {}"
    found: list[tuple[Setting, int | str]] = [
        (Setting("clip_a", "deep"), 1_234),
        (Setting("clip_a", "wide"), reason.format(3, 3)),
        (Setting("clip_b", "deep"), reason.format(3, 3)),
        (Setting("clip_b", "wide"), 5),
        (Setting("albef_c", "deep"), reason.format(6, 6)),
        (Printed("clip_a", "deep", {"tuner.streams": ["text"]}, printed="1.2K", where="A paper", why="but"), 1_234),
        (Printed("clip_b", "none", printed="2M", where="Its table"), 7),
    ]
    lines = render(found).splitlines()
    for line in (
        "| deep | 1,234 | —[^1] |",
        "| wide | —[^1] | 5 |",
        "| deep | —[^2] |",
        "[^1]: depth (9) is more than the text stream's 3 layers.",
        "[^2]: depth (9) is more than the text stream's 6 layers.",
        "| A paper | clip_a | deep | `tuner.streams=[text]` | 1,234 | 1.2K | by rounding | but |",
        "| Its table | clip_b | none |  | 7 | 2M | differs |  |",
    ):
        assert line in lines
    assert lines.index("## Whole models") > lines.index("## What papers print")


def test_the_tool_writes_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [Setting("clip_tiny", "coop"), Setting("clip_tiny", "maple")]
    monkeypatch.setattr(tool, "settings", lambda: few)
    monkeypatch.setattr(tool, "PAGE", tmp_path / "page.md")
    tool.main(["--all"])
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == render((setting, setting.count()) for setting in few)
    assert capsys.readouterr().out.startswith("2 settings are counted")


def test_the_tool_prints_one_setting(capsys: pytest.CaptureFixture[str]) -> None:
    tool.main(["--backbone", "blip_base", "--tuner", "lora_r32"])
    counted = json.loads(capsys.readouterr().out)
    assert counted["trainable"] == 10_616_832
    assert counted["head"] == "retrieval"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--backbone", "blip_base"], "name a --backbone and a --tuner, or ask for --all"),
        (["--all", "--tuner", "lora"], "leave out what chooses one setting"),
        (["--all", "--classes", "10"], "leave out what chooses one setting"),
    ],
)
def test_the_tool_asks_for_one_setting_or_all(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        tool.main(arguments)
    assert words in capsys.readouterr().err
