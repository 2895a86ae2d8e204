"""What each tuner trains on CLIP, as exact integers worked out from the papers' sizes."""

from __future__ import annotations

from typing import Any

import pytest

from petl_zoo.engine.counting import count_parameters

TOTAL = {"clip_vit_b16": 149_620_737, "clip_vit_b32": 151_277_313}

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
def test_backbones_are_of_their_published_size(backbone: str) -> None:
    assert count_parameters(backbone, "none")["total"] == TOTAL[backbone]


def test_streams_of_the_tuned_parameters() -> None:
    assert count_parameters("clip_vit_b16", "ivlp")["by_stream"] == {"text": 12_288, "vision": 18_432}
    assert count_parameters("clip_vit_b16", "maple")["by_stream"] == {"text": 9_216, "joint": 3_545_856}
    assert count_parameters("clip_vit_b16", "lora")["by_stream"] == {"vision": 147_456, "text": 98_304}
