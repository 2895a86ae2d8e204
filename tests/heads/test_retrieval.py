"""Retrieval's losses and evaluation against plain computations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from petl_zoo.backbones import Plan
from petl_zoo.backbones.bert import BertFusion
from petl_zoo.data.captions import Gallery
from petl_zoo.evaluation import Recall
from petl_zoo.heads import RetrievalHead
from petl_zoo.heads.retrieval import _draw
from petl_zoo.model import VLModel
from petl_zoo.tuners import FullFineTuning, MaPLe, NoTuner
from tests.conftest import make_albef, make_beit3, make_blip, make_clip, pair_batch

DUAL = {"clip": make_clip, "beit3": make_beit3}
FUSED = {"blip": make_blip, "albef": make_albef}


def model_of(backbone: Any, tuner: Any = None, **options: Any) -> VLModel:
    return VLModel(backbone, tuner or NoTuner(), RetrievalHead(**options)).eval()


def info_nce(model: VLModel, batch: dict[str, Any]) -> Tensor:
    """ITC with several positives, straight from its definition."""
    image, text = model(**batch, mode="tensor")
    ids, scores = batch["ids"], model.backbone.scale() * image @ text.t()
    loss = torch.zeros(())
    for row in range(len(ids)):
        positives = [j for j in range(len(ids)) if ids[j] == ids[row]]
        for matrix in (scores, scores.t()):
            log_p = matrix[row].log_softmax(0)
            loss = loss - sum(log_p[j] for j in positives) / len(positives)
    return loss / (2 * len(ids))


@pytest.mark.parametrize("make", [*DUAL.values(), *FUSED.values()], ids=[*DUAL, *FUSED])
def test_contrast_is_the_cross_entropy_over_all_pairs_of_the_batch(make: Any) -> None:
    model = model_of(make())
    batch = pair_batch()
    torch.testing.assert_close(model(**batch, mode="loss")["loss_itc"], info_nce(model, batch), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", DUAL.values(), ids=DUAL)
def test_a_dual_encoder_has_contrast_alone(make: Any) -> None:
    model = model_of(make())
    assert set(model(**pair_batch(), mode="loss")) == {"loss_itc"}
    assert "fusion" not in model.backbone.streams


@pytest.mark.parametrize("make", FUSED.values(), ids=FUSED)
def test_matching_is_the_mean_over_true_and_drawn_pairs(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pair by itself, image states repeated: what the shared keys and values must come to."""
    model = model_of(make())
    batch = pair_batch()
    drawn = iter([torch.tensor([1, 2, 3, 2]), torch.tensor([2, 0, 1, 1])])  # texts for images, images for texts
    known = torch.ones(4, dtype=torch.bool)
    monkeypatch.setattr("petl_zoo.heads.retrieval._draw", lambda *args: (next(drawn), known))
    loss = model(**batch, mode="loss")["loss_itm"]

    pairs = [(i, i, 1) for i in range(4)]
    pairs += [(i, t, 0) for i, t in enumerate([1, 2, 3, 2])] + [(i, t, 0) for t, i in enumerate([2, 0, 1, 1])]
    logits = torch.stack([pair_logits(model, batch, i, t) for i, t, _ in pairs])
    torch.testing.assert_close(loss, F.cross_entropy(logits, torch.tensor([y for *_, y in pairs])))


def pair_logits(model: VLModel, batch: dict[str, Any], image: int, text: int) -> Tensor:
    backbone = model.backbone
    words = model.caption_text([batch["captions"][text]])
    context = backbone.context(backbone.image_states(batch["images"][image : image + 1]))
    return backbone.match(backbone.fuse(words, backbone.text_states(words), context, Plan()))[0]


def test_a_drawn_negative_is_never_of_the_same_id() -> None:
    ids = torch.tensor([0, 1, 0, 2, 1])
    same = ids[:, None] == ids[None]
    torch.manual_seed(0)
    for _ in range(50):
        other, known = _draw(100 * torch.eye(5), same)
        assert known.all()
        assert not same[torch.arange(5), other].any()


def test_the_most_similar_negative_is_drawn_most_often() -> None:
    similarity = torch.tensor([[0.0, 3.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    torch.manual_seed(0)
    drawn = torch.stack([_draw(similarity, torch.eye(3, dtype=torch.bool))[0] for _ in range(300)])
    assert (drawn[:, 0] == 1).float().mean() == pytest.approx(1 / (1 + torch.tensor(-3.0).exp()).item(), abs=0.04)


def test_a_batch_of_one_image_has_no_negative_and_a_finite_loss() -> None:
    model = model_of(make_blip())
    batch = pair_batch() | {"ids": torch.zeros(4, dtype=torch.long)}
    assert torch.isfinite(model(**batch, mode="loss")["loss_itm"])


def test_momentum_averages_what_is_trained_and_nothing_else() -> None:
    tuner = MaPLe(length=2, depth=2)
    model = model_of(make_blip(), tuner, momentum=0.9, queue=8, alpha=0.4)
    names = {name for name, _ in model.head.named_buffers() if name.startswith("average_of")}
    assert names == {"average_of_" + name.replace(".", "/") for name in model.trained_parameters()}
    parameter = tuner.text[1]
    before = parameter.detach().clone()
    with torch.no_grad():
        parameter.add_(1.0)
    model(**pair_batch(), mode="loss")
    torch.testing.assert_close(model.head.get_buffer("average_of_tuner/text/1"), before + 0.1)
    assert int(model.head.place) == 4
    assert model.head.id_queue.tolist() == [0, 1, 2, 0, -100, -100, -100, -100]


def test_the_queue_runs_in_a_circle() -> None:
    model = model_of(make_clip(), MaPLe(length=2, depth=2), momentum=0.5, queue=6)
    for step in range(2):
        model(**pair_batch() | {"ids": torch.arange(4) + 10 * step}, mode="loss")
    assert model.head.id_queue.tolist() == [12, 13, 2, 3, 10, 11]
    assert int(model.head.place) == 2


def test_without_momentum_keys_are_the_batchs_own() -> None:
    """A momentum encoder that has not moved and no queue: the same loss as without one."""
    batch = pair_batch()
    with_copy = model_of(make_clip(), FullFineTuning(), momentum=0.5)
    without = model_of(make_clip(), FullFineTuning())
    torch.testing.assert_close(
        with_copy(**batch, mode="loss")["loss_itc"], without(**batch, mode="loss")["loss_itc"], rtol=1e-5, atol=1e-6
    )


def test_alpha_grows_over_the_ramp() -> None:
    losses = []
    for progress in (0.0, 0.5, 1.0, 5.0):
        model = model_of(make_clip(), FullFineTuning(), momentum=0.5, alpha=0.8, ramp=1.0)
        model.head.set_progress(progress)
        losses.append(model(**pair_batch(), mode="loss")["loss_itc"].item())
    assert losses[1] == pytest.approx((losses[0] + losses[2]) / 2, rel=1e-5)
    assert losses[2] == pytest.approx(losses[3], rel=1e-6)
    assert losses[0] != pytest.approx(losses[2], rel=1e-3)


CAPTIONS = ("a cat", "a red cat sleeps on a red fire truck", "two polar bears", "a maine coon cat", "one red truck")


def gallery_batches(images: int = 3, foils: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(images, 3, 16, 16, generator=generator)
    gallery = Gallery(CAPTIONS, (0, 0, 1, 2, 2), images, foils)
    order = torch.tensor([2, 0, 1])
    return [
        {"images": pixels[part], "index": part, "gallery": gallery} for part in (order[:2], order[2:])
    ]


def rows(model: VLModel, batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = [sample for _, samples in model.head.evaluate(model, batches) for sample in samples]
    return sorted(found, key=lambda sample: sample["index"])


@pytest.mark.parametrize("make", [*DUAL.values(), *FUSED.values()], ids=[*DUAL, *FUSED])
@pytest.mark.parametrize("tuner", [NoTuner, lambda: MaPLe(length=2, depth=2)], ids=["bare", "maple"])
def test_similarities_are_those_of_the_features(make: Any, tuner: Any) -> None:
    model = model_of(make(), tuner(), k_test=2)
    batches = gallery_batches()
    pixels = torch.cat([batch["images"] for batch in batches])[[1, 2, 0]]
    for i, sample in enumerate(rows(model, batches)):
        repeated = pixels[i : i + 1].expand(len(CAPTIONS), -1, -1, -1)
        with torch.no_grad():
            image, text = model(images=repeated, captions=list(CAPTIONS), mode="tensor")
        torch.testing.assert_close(sample["itc"], (image * text).sum(1), rtol=1e-5, atol=1e-5)
        assert (sample["itm"] is None) == isinstance(model.backbone, tuple(type(m()) for m in DUAL.values()))


@pytest.mark.parametrize("make", FUSED.values(), ids=FUSED)
@pytest.mark.parametrize("tuner", [NoTuner, lambda: MaPLe(length=2, depth=2)], ids=["bare", "maple"])
@pytest.mark.parametrize("plain", [False, True], ids=["fast", "plain"])
def test_every_candidate_has_the_score_of_its_pair(make: Any, tuner: Any, plain: bool) -> None:
    model = model_of(make().double(), tuner().double(), k_test=2).double()
    batches = [{**batch, "images": batch["images"].double()} for batch in gallery_batches()]
    pixels = torch.cat([batch["images"] for batch in batches])[[1, 2, 0]]
    model.backbone.plain = plain
    for i, sample in enumerate(rows(model, batches)):
        assert sample["candidates"].shape == (2, len(CAPTIONS))
        assert int(sample["candidates"][0].sum()) == 2, "k_test texts an image"
        scored = sample["candidates"].any(0)
        assert torch.equal(scored, sample["itm"].isfinite())
        for t in scored.nonzero()[:, 0].tolist():
            with torch.no_grad():
                (pair,) = model(images=pixels[i : i + 1], captions=[CAPTIONS[t]], mode="predict")
            expected = pair["match"] + (pair["similarity"] if model.backbone.adds_similarity else 0.0)
            assert float(sample["itm"][t]) == pytest.approx(expected, abs=1e-5)


def test_each_text_has_k_candidate_images() -> None:
    found = rows(model_of(make_blip(), k_test=2), gallery_batches())
    asked = torch.stack([sample["candidates"][1] for sample in found])  # (I, T)
    best = torch.stack([sample["itc"] for sample in found]).topk(2, dim=0).indices
    assert torch.equal(asked, torch.zeros_like(asked).scatter_(0, best, True))


def test_foils_are_scored_though_they_are_no_candidates() -> None:
    foils = (-1, 3, -1, 1, -1)
    found = rows(model_of(make_blip(), k_test=1), gallery_batches(foils=foils))
    assert found[0]["itm"][[1, 3]].isfinite().all()
    assert found[2]["itm"][[1, 3]].isfinite().all()


def test_the_authors_rules_of_scoring() -> None:
    """BLIP adds the similarity, ALBEF does not; an option says otherwise."""
    for make, adds in ((make_blip, True), (make_albef, False)):
        scores = {
            option: rows(model_of(make(), k_test=3, add_similarity=option), gallery_batches())[0]
            for option in (None, True, False)
        }
        torch.testing.assert_close(scores[None]["itm"], scores[adds]["itm"])
        apart = scores[True]["itm"] - scores[False]["itm"]
        torch.testing.assert_close(apart, scores[None]["itc"], rtol=1e-4, atol=1e-6)


def test_metrics_come_out_of_an_evaluation() -> None:
    model = model_of(make_blip(), k_test=3)
    metric = Recall()
    for batch, samples in model.head.evaluate(model, gallery_batches()):
        metric.process(batch, samples)
    metrics = metric.evaluate(3)
    assert 0 <= metrics["mean_recall"] <= 1
    assert metrics["t2i_r5"] == metrics["i2t_r5"] == 1, "three images, all of which are candidates"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k_test": 0}, "k_test"),
        ({"queue": 8}, "momentum"),
        ({"alpha": 0.4}, "momentum"),
        ({"momentum": 1.0}, "momentum"),
        ({"momentum": 0.9, "alpha": 2.0}, "alpha"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RetrievalHead(**options)


def test_a_backbone_with_a_matching_score_can_do_without_it() -> None:
    model = model_of(make_blip(), FullFineTuning(), matching=False)
    assert set(model(**pair_batch(), mode="loss")) == {"loss_itc"}
    assert isinstance(model.backbone, BertFusion)
    assert not any(".cross." in name or "itm_head" in name for name in model.trained_parameters())
