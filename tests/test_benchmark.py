"""The benchmark of the exact shortcuts: its figures make sense, and both ways compute the same. No time is asserted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from petl_zoo.data.glyphs.atlas import concepts
from petl_zoo.engine.benchmark import benchmark_classes, benchmark_rerank
from petl_zoo.engine.faults import ConfigError


@pytest.mark.parametrize(
    ("tuner", "overrides"),
    [("maple", {"tuner.depth": 2}), ("cocoop", {}), ("vpt", {"tuner.depth": 2}), ("lora", {}), ("none", {})],
)
def test_both_ways_compute_the_same(tuner: str, overrides: dict[str, Any]) -> None:
    figures = benchmark_classes("clip_tiny", tuner, classes=5, batch=2, repeats=1, overrides=overrides)
    assert json.loads(json.dumps(figures)) == figures
    assert (figures["backbone"], figures["tuner"], figures["classes"], figures["batch"]) == ("clip_tiny", tuner, 5, 2)
    assert figures["loss_difference"] < 1e-5
    assert figures["gradient_difference"] < 1e-5
    assert figures["fast_s"] > 0
    assert figures["plain_s"] > 0
    assert figures["plain_tokens_a_class"] == 32
    assert 1 <= figures["tokens_a_class"] <= 10


def test_more_classes_than_there_are_names() -> None:
    classes = len(concepts()) + 1
    figures = benchmark_classes("clip_tiny", "coop", classes=classes, batch=1, repeats=1)
    assert figures["classes"] == classes
    assert figures["gradient_difference"] < 1e-5


@pytest.mark.parametrize(
    ("tuner", "overrides", "message"),
    [
        ("mapel", {}, r"no 'mapel'.*did you mean 'maple'"),
        ("maple", {"tuner.depht": 2}, r"depht"),
        ("maple", {"tuner.depth": 9}, r"depth \(9\) is more than the text stream's 3 layers"),
    ],
)
def test_faults_are_named(tuner: str, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        benchmark_classes("clip_tiny", tuner, overrides=overrides)


@pytest.mark.parametrize("backbone", ["blip_tiny", "albef_tiny"])
def test_re_ranking_gives_the_scores_of_plain_code(backbone: str) -> None:
    figures = benchmark_rerank(backbone, candidates=6, repeats=1)
    assert json.loads(json.dumps(figures)) == figures
    assert figures["candidates"] == 6
    assert figures["score_difference"] < 1e-4
    assert figures["padded_to"] < figures["plain_padded_to"] == 32


def test_re_ranking_needs_a_matching_score() -> None:
    with pytest.raises(ConfigError, match="matching score"):
        benchmark_rerank("clip_tiny", candidates=2)
    with pytest.raises(ConfigError, match="captions there are"):
        benchmark_rerank("blip_tiny", candidates=10_000)
