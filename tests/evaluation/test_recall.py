"""Recall by hand, against a plain loop and torchmetrics; ties, candidates, order and memory."""

from __future__ import annotations

import math
import pickle
import statistics
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.retrieval import RetrievalHitRate

from petl_zoo.data.captions import Gallery
from petl_zoo.evaluation import Measure, Recall
from petl_zoo.evaluation.recall import Scores, ranks

KS = (1, 5, 10)


def gallery(per_image: list[int], **options: Any) -> Gallery:
    """Images with so many captions each."""
    image_of = tuple(image for image, count in enumerate(per_image) for _ in range(count))
    return Gallery(tuple(f"text {text}" for text in range(len(image_of))), image_of, len(per_image), **options)


def samples(
    texts: Gallery, itc: Tensor, itm: Tensor | None = None, candidates: Tensor | None = None
) -> list[dict[str, Any]]:
    """What a head yields; ``candidates`` is (2, I, T)."""
    return [
        {
            "index": image,
            "gallery": texts,
            "itc": itc[image],
            "itm": None if itm is None else itm[image],
            "candidates": None if candidates is None else candidates[:, image],
        }
        for image in range(texts.num_images)
    ]


def evaluate(rows: list[dict[str, Any]]) -> dict[str, float]:
    metric = Recall()
    for start in range(0, len(rows), 4):
        metric.process(None, rows[start : start + 4])
    return metric.evaluate(rows[0]["gallery"].num_images)


def by_loop(texts: Gallery, scores: Tensor) -> dict[str, float]:
    """The same numbers, one query and one candidate after another."""
    values = scores.tolist()
    to_texts, to_images = [], []
    for image in range(texts.num_images):
        best = max(values[image][text] for text in texts.texts_of(image))
        wrong = [text for text, owner in enumerate(texts.image_of) if owner != image]
        to_texts.append(sum(values[image][text] >= best for text in wrong))
    for text, owner in enumerate(texts.image_of):
        wrong = [image for image in range(texts.num_images) if image != owner]
        to_images.append(sum(values[image][text] >= values[owner][text] for image in wrong))
    found = {"i2t": to_texts, "t2i": to_images}
    recalls = {f"{way}_r{k}": sum(rank < k for rank in each) / len(each) for way, each in found.items() for k in KS}
    medians = {f"{way}_median_rank": statistics.median(each) + 1 for way, each in found.items()}
    return {"mean_recall": sum(recalls.values()) / 6, **recalls, **medians}


def test_three_images_and_six_texts_by_hand() -> None:
    scores = torch.tensor(
        [
            [0.9, 0.1, 0.3, 0.2, 0.0, 0.0],  # an own text first
            [0.6, 0.5, 0.4, 0.1, 0.7, 0.2],  # own texts, 0.4 and 0.1, behind 0.7, 0.6 and 0.5
            [0.2, 0.3, 0.1, 0.8, 0.6, 0.5],  # the own 0.6 behind 0.8
        ]
    )
    found = evaluate(samples(gallery([2, 2, 2]), scores))
    # Text to image, by column: first; third; first; third; second; first.
    assert found == {
        "mean_recall": pytest.approx((1 / 3 + 1 + 1 + 1 / 2 + 1 + 1) / 6),
        "i2t_r1": pytest.approx(1 / 3), "i2t_r5": 1.0, "i2t_r10": 1.0,
        "t2i_r1": 0.5, "t2i_r5": 1.0, "t2i_r10": 1.0,
        "i2t_median_rank": 2.0, "t2i_median_rank": 1.5,
    }  # fmt: skip
    to_texts, to_images = ranks({i: Scores(row.numpy()) for i, row in enumerate(scores)}, gallery([2, 2, 2]))
    assert (to_texts.tolist(), to_images.tolist()) == ([0, 3, 1], [0, 2, 0, 2, 1, 0])


@pytest.mark.parametrize("decimals", [1, 6])
def test_recall_is_that_of_a_loop(decimals: int) -> None:
    generator = torch.Generator().manual_seed(0)
    texts = gallery([1 + image % 6 for image in range(40)])
    # One decimal gives ties by the hundred.
    scores = torch.randn(40, len(texts.captions), generator=generator).round(decimals=decimals)
    scores += 2 * (torch.tensor(texts.image_of) == torch.arange(40)[:, None])
    assert evaluate(samples(texts, scores)) == pytest.approx(by_loop(texts, scores))


def test_recall_is_the_hit_rate_of_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(1)
    texts = gallery([5] * 30)
    own = torch.tensor(texts.image_of) == torch.arange(30)[:, None]  # (I, T)
    scores = torch.randn(30, 150, generator=generator) + 1.5 * own
    found = evaluate(samples(texts, scores))
    for way, relevant, values in (("i2t", own, scores), ("t2i", own.t(), scores.t())):
        query = torch.arange(len(values))[:, None].expand_as(values)
        for k in KS:
            reference = RetrievalHitRate(top_k=k)(values.flatten(), relevant.flatten(), indexes=query.flatten())
            assert found[f"{way}_r{k}"] == pytest.approx(float(reference)), (way, k)


@pytest.mark.parametrize("value", [0.0, math.nan, -math.inf])
def test_a_model_that_scores_everything_alike_finds_nothing(value: float) -> None:
    found = evaluate(samples(gallery([1] * 12), torch.full((12, 12), value)))
    assert found["mean_recall"] == 0
    assert found["i2t_median_rank"] == found["t2i_median_rank"] == 12


def test_texts_of_one_image_do_not_tie_with_each_other() -> None:
    scores = torch.tensor([[0.5, 0.5, 0.1], [0.1, 0.1, 0.4]])
    assert evaluate(samples(gallery([2, 1]), scores))["i2t_r1"] == 1


def test_reranking_orders_each_querys_candidates_alone() -> None:
    texts = gallery([1, 1, 1])
    itc = torch.tensor([[0.1, 0.9, 0.2], [0.3, 0.8, 0.1], [0.5, 0.4, 0.6]])
    itm = torch.tensor([[3.0, 1.0, 9.0], [5.0, 2.0, 0.0], [0.0, 0.0, 7.0]])
    candidates = torch.ones(2, 3, 3, dtype=torch.bool)
    candidates[0, 0, 2] = False  # Image 0 does not consider text 2, though it would match best.
    candidates[1, 1, 1] = False  # Text 1 does not consider its own image, which would match best.
    found = evaluate(samples(texts, itc, itm, candidates))
    assert found["i2t_r1"] == pytest.approx(2 / 3)  # Image 1 takes text 0.
    assert found["t2i_r1"] == pytest.approx(0 / 3)
    assert found["itc_i2t_r1"] == pytest.approx(2 / 3)
    assert found["itc_t2i_r1"] == pytest.approx(1 / 3)
    reranked, alone = list(found)[:9], list(found)[9:]
    assert alone == [f"itc_{name}" for name in reranked]


def test_two_way_compares_with_the_foil_alone() -> None:
    texts = gallery([2, 2], foils=(2, 3, 0, -1))
    itc = torch.tensor([[0.5, 0.2, 0.4, 0.2], [0.9, 0.0, 0.8, 0.0]])
    assert evaluate(samples(texts, itc))["two_way"] == pytest.approx(1 / 3)  # A tie is no agreement.
    itm = torch.tensor([[0.0, 1.0, -1.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    nothing = torch.zeros(2, 2, 4, dtype=torch.bool)
    found = evaluate(samples(texts, itc, itm, nothing))
    assert found["two_way"] == 1
    assert found["itc_two_way"] == pytest.approx(1 / 3)
    assert found["mean_recall"] < found["itc_mean_recall"]


def test_order_and_repetition_of_the_images_do_not_matter() -> None:
    texts = gallery([1 + image % 3 for image in range(11)])
    rows = samples(texts, torch.randn(11, len(texts.captions), generator=torch.Generator().manual_seed(2)))
    shuffled = [rows[i] for i in (3, 10, 0, 1, 3, 2, 9, 8, 7, 4, 5, 6, 10)]
    metric = Recall()
    metric.process(None, shuffled)
    assert metric.evaluate(len(shuffled)) == evaluate(rows)


def test_an_image_without_scores_is_told() -> None:
    rows = samples(gallery([1] * 5), torch.eye(5))
    metric = Recall()
    metric.process(None, rows[:3])
    with pytest.raises(ValueError, match=r"2 of the gallery's 5 images have no scores, the first at place 3"):
        metric.evaluate(5)


def test_what_processes_exchange_is_a_row_and_not_the_matrix() -> None:
    metric = Recall()
    metric.process(None, samples(gallery([1] * 200), torch.eye(200, dtype=torch.bfloat16))[:1])
    index, found = pickle.loads(pickle.dumps(metric.results[0], protocol=2))
    assert index == 0
    assert found["itc"].values.tolist() == [1.0] + [0.0] * 199
    wide = Recall()
    wide.process(None, samples(gallery([1] * 200), torch.eye(200))[:1])
    assert len(pickle.dumps(wide.results, protocol=2)) < 4 * 200 * 10


def test_memory_stays_below_that_of_the_scores() -> None:
    texts = gallery([5] * 200)
    scores = np.random.default_rng(0).normal(size=(200, 1000)).astype(np.float32)
    rows = {image: Scores(row) for image, row in enumerate(scores)}
    tracemalloc.start()
    ranks(rows, texts)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < scores.nbytes / 4


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mean_recall", Measure("fraction")),
        ("i2t_r1", Measure("fraction", "images", 2)),
        ("t2i_r10", Measure("fraction", "captions", 4)),
        ("itc_t2i_median_rank", Measure("rank", "captions", 4)),
        ("i2t_median_rank", Measure("rank", "images", 2)),
        ("itc_two_way", Measure("fraction", "captions", 3)),
    ],
)
def test_each_value_says_what_it_is(name: str, expected: Measure) -> None:
    metric = Recall()
    metric.process(None, samples(gallery([2, 2], foils=(2, 3, 0, -1)), torch.zeros(2, 4)))
    assert metric.measure(name, 2) == expected
