"""The model: what is trained, what a tuner's checkpoint holds, and which class features may be used again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petl_zoo.backbones import CLIP, Backbone
from petl_zoo.data.classes import ClassNames
from petl_zoo.heads import ClassificationHead, RetrievalHead
from petl_zoo.model import REMEMBERED, VLModel
from petl_zoo.tuners import (
    VPT,
    CoCoOp,
    CoOp,
    FullFineTuning,
    LinearProbe,
    LoRA,
    MaPLe,
    NoTuner,
    Tuner,
)
from tests.conftest import (
    NAMES,
    SIZES,
    WordTokenizer,
    make_albef,
    make_beit3,
    make_blip,
    make_clip,
    pair_batch,
)

CLASSES = ClassNames(NAMES, ("a photo of a {}.",))


def make_model(tuner: Tuner, head: ClassificationHead | None = None) -> VLModel:
    return VLModel(make_clip(), tuner, head or ClassificationHead(), NAMES)


def features(model: VLModel, classes: ClassNames = CLASSES) -> Tensor:
    return model.class_features(classes, model.tuner.plan())


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """How often a text was encoded."""
    calls = []
    encode = CLIP.encode_text
    monkeypatch.setattr(CLIP, "encode_text", lambda *args: calls.append(1) or encode(*args))
    return lambda: len(calls)


# What is trained ------------------------------------------------------------------------------------------------------


def test_the_model_freezes_what_is_not_declared_and_frees_what_is() -> None:
    clip = make_clip().requires_grad_(False)
    model = VLModel(clip, FullFineTuning(), ClassificationHead(), NAMES)
    assert all(p.requires_grad for p in clip.parameters())
    assert set(model.trained_parameters()) == {f"backbone.{name}" for name, _ in clip.named_parameters()}
    VLModel(clip, NoTuner(), ClassificationHead(), NAMES)
    assert not any(p.requires_grad for p in clip.parameters())


def test_a_declared_name_that_does_not_exist() -> None:
    class Careless(Tuner):
        def trained(self, backbone: Backbone) -> dict[str, str]:
            return {"backbone.vision.layers.9.adapter": "adapter", "tuner.scale": "prompt"}

    with pytest.raises(ValueError, match=r"Careless declares .* not exist: backbone.vision.layers.9.adapter, tuner.sc"):
        make_model(Careless())


def test_parts_are_built_from_configs() -> None:
    backbone = {"type": "CLIP", **SIZES, "tokenizer": WordTokenizer()}
    model = VLModel(backbone, {"type": "CoOp", "length": 2}, {"type": "ClassificationHead"})
    assert [type(part) for part in (model.backbone, model.tuner, model.head)] == [CLIP, CoOp, ClassificationHead]
    assert set(model.roles) == {"tuner.text_context"}


def test_counts_by_stream_and_role() -> None:
    model = make_model(MaPLe(length=2, depth=2))
    counted = model.count()
    assert counted.by_stream == {"text": 2 * 2 * 16, "joint": 2 * (16 * 24 + 24)}
    assert counted.by_role == {"prompt": 64, "projection": 816}
    assert counted.trainable == counted.added == 64 + 816
    assert counted.total == sum(p.numel() for p in make_clip().parameters()) + 880

    counted = make_model(LoRA(rank=2, streams=("vision",), targets=("fc1",))).count()
    assert counted.by_stream == {"vision": 3 * 2 * (24 + 96)}


def test_full_tuning_adds_nothing() -> None:
    model = make_model(FullFineTuning())
    counted = model.count()
    assert counted.added == 0
    assert counted.trainable == counted.total
    assert counted.by_stream["joint"] == 1, "logit_scale is of neither stream"


def test_a_heads_parameters_are_trained_and_counted() -> None:
    class Biased(ClassificationHead):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(4))

    model = make_model(CoOp(length=2), Biased())
    assert model.count().by_role == {"prompt": 32, "head": 4}
    assert model.trained_parameters()["head.bias"].requires_grad
    assert model.roles["head.bias"] == "head"


def test_a_shared_tensor_counts_once() -> None:
    class Twice(Tuner):
        def attach(self, backbone: Backbone, classes: Any) -> None:
            self.first = self.second = nn.Parameter(torch.zeros(5))

    counted = make_model(Twice()).count()
    assert (counted.trainable, counted.added) == (5, 5)


# A tuner's checkpoint -------------------------------------------------------------------------------------------------


def test_the_trained_state_is_the_tuner_alone() -> None:
    state = make_model(MaPLe(length=2, depth=2)).trained_state()
    names = [f"{kind}.{i}" for kind in ("text", "coupling") for i in range(2)]
    expected = {f"tuner.{n}{part}" for n in names for part in ([""] if "text" in n else [".weight", ".bias"])}
    assert set(state) == expected
    assert not any(t.requires_grad for t in state.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("tuner.text.1"), r"tuner.text.1: missing"),
        (lambda state: state.update({"tuner.scale": torch.zeros(1)}), r"tuner.scale: unexpected"),
        (
            lambda state: state.update({"tuner.text.1": torch.zeros(3, 16)}),
            r"tuner.text.1: shape \(3, 16\), but the model's is \(2, 16\)",
        ),
    ],
    ids=["missing", "unexpected", "shape"],
)
def test_a_state_that_does_not_fit_changes_nothing(change: Callable[[Any], Any], message: str) -> None:
    model = make_model(MaPLe(length=2, depth=2))
    before = {name: t.clone() for name, t in model.trained_state().items()}
    state = {name: torch.full_like(t, 9.0) for name, t in before.items()}
    change(state)
    with pytest.raises(ValueError, match=rf"does not fit tuner MaPLe as configured:\n  {message}\nUse the config"):
        model.load_trained_state(state)
    assert all(torch.equal(t, before[name]) for name, t in model.trained_state().items())


def test_many_faults_are_not_all_shown() -> None:
    model = make_model(FullFineTuning())
    with pytest.raises(ValueError, match=rf"\.\.\. and {len(model.trained_state()) - 8} more"):
        model.load_trained_state({})


# Class features -------------------------------------------------------------------------------------------------------


def test_several_templates_are_averaged_as_normalised() -> None:
    model = make_model(NoTuner())
    templates = ("a photo of a {}.", "a drawing of the {}.", "{}")
    single = [features(model, ClassNames(NAMES, (template,))) for template in templates]
    lengths = torch.stack([s.norm(dim=-1) for s in single])
    assert lengths.std() > 0.01, "features of equal length would not tell the two averages apart"
    expected = sum(s / s.norm(dim=-1, keepdim=True) for s in single) / 3
    torch.testing.assert_close(features(model, ClassNames(NAMES, templates)), expected)


def test_a_tuners_template_replaces_the_data_sets() -> None:
    model = make_model(VPT(length=2, depth=1))
    plain = features(make_model(NoTuner()), ClassNames(NAMES, ("a photo of a {}.",)))
    torch.testing.assert_close(features(model, ClassNames(NAMES, ("a drawing of {}.", "{}"))), plain)


def test_constant_features_are_computed_once_in_training(counted: Callable[[], int], batch: dict[str, Any]) -> None:
    model = make_model(VPT(length=2, depth=2))
    optimizer = torch.optim.SGD(model.trained_parameters().values(), lr=0.1)
    for _ in range(3):
        model(**batch, mode="loss")["loss"].backward()
        optimizer.step()
    assert counted() == 1
    with torch.no_grad():
        model(**batch, mode="predict")
    assert counted() == 1


def test_trained_features_are_computed_at_each_training_step(counted: Callable[[], int], batch: dict[str, Any]) -> None:
    model = make_model(CoOp(length=2))
    with torch.no_grad():
        model(**batch, mode="predict")
    for _ in range(2):
        model(**batch, mode="loss")["loss"].backward()
    assert counted() == 3


def test_remembered_features_are_bounded(counted: Callable[[], int]) -> None:
    model = make_model(CoOp(length=2))
    sets = [ClassNames((f"thing {i}", f"other {i}")) for i in range(REMEMBERED + 3)]
    with torch.no_grad():
        for classes in sets:
            features(model, classes)
        assert len(model._features) == REMEMBERED
        assert len(model._texts) == REMEMBERED
        before = counted()
        features(model, sets[-1])
        assert counted() == before
        features(model, sets[0])
        assert counted() == before + 1, "the oldest was forgotten"


def fresh(model: VLModel) -> Tensor:
    model.forget()
    return features(model)


@torch.no_grad()
def test_features_follow_the_parameters(batch: dict[str, Any]) -> None:
    model = make_model(CoOp(length=2))
    old = features(model)
    assert features(model) is old
    state = {name: torch.randn_like(t) for name, t in model.trained_state().items()}
    model.load_trained_state(state)
    loaded = features(model)
    assert not torch.equal(loaded, old)
    assert torch.equal(loaded, fresh(model))

    with torch.enable_grad():
        model(**batch, mode="loss")["loss"].backward()
    features(model)
    torch.optim.Adam(model.trained_parameters().values(), lr=0.1).step()
    stepped = features(model)
    assert not torch.equal(stepped, loaded)
    assert torch.equal(stepped, fresh(model))


@torch.no_grad()
@pytest.mark.parametrize("tuner", [NoTuner, lambda: CoOp(length=2)], ids=["constant", "trained"])
def test_precisions_are_not_mixed_up(tuner: Callable[[], Tuner]) -> None:
    model = make_model(tuner())
    with torch.autocast("cpu", torch.bfloat16):
        half = features(model)
    full = features(model)
    assert (half.dtype, full.dtype) == (torch.bfloat16, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert features(model) is half
    assert features(model) is full
    assert features(model.double()).dtype == torch.float64


@torch.no_grad()
def test_features_that_depend_on_the_image_are_not_remembered() -> None:
    model = make_model(CoCoOp(length=2))
    for seed in (0, 1):
        torch.manual_seed(seed)
        image = F.normalize(torch.randn(3, 64), dim=-1)
        assert model.class_features(CLASSES, model.tuner.plan(image)).shape == (3, 4, 64)
    assert not model._features


# Fit, modes and the head ----------------------------------------------------------------------------------------------


def test_a_tuner_needs_its_streams() -> None:
    clip = make_clip()
    clip.all_streams = {"text": clip.streams["text"]}
    with pytest.raises(ValueError, match="MaPLe needs the stream vision, but CLIP has text"):
        VLModel(clip, MaPLe(length=2, depth=2), ClassificationHead(), NAMES)
    with pytest.raises(ValueError, match="needs the stream fusion, but ClassificationHead on BLIP runs text, vision"):
        VLModel(make_blip(), LoRA(streams=("fusion",)), ClassificationHead(), NAMES)


@pytest.mark.parametrize(
    ("make", "matching", "streams"),
    [
        (make_clip, True, {"vision", "text"}),
        (make_blip, True, {"vision", "text", "fusion"}),
        (make_blip, False, {"vision", "text"}),
        (make_albef, True, {"vision", "text", "fusion"}),
        (make_beit3, True, {"vision", "text"}),
    ],
)
def test_only_streams_that_the_head_runs_are_in_use(
    make: Callable[[], Backbone], matching: bool, streams: set[str]
) -> None:
    model = VLModel(make(), FullFineTuning(), RetrievalHead(matching=matching))
    assert set(model.backbone.streams) == streams
    assert set(model.count().by_stream) == streams | {"joint"}
    again = VLModel(model.backbone, FullFineTuning(), ClassificationHead(), NAMES)
    assert set(again.backbone.streams) == {"vision", "text"}, "the next head's streams are not the last one's"


def test_a_tuner_with_parameters_for_each_class_needs_the_classes() -> None:
    with pytest.raises(ValueError, match="LinearProbe has parameters for each class"):
        VLModel(make_clip(), LinearProbe(), ClassificationHead())


def test_captions_get_the_tuners_slots_and_what_is_too_long_is_cut() -> None:
    model = VLModel(make_blip(), MaPLe(length=2, depth=2), RetrievalHead())
    captions = ["a cat", "a very " * 20 + "long tail"]
    text = model.caption_text(captions)
    assert text.slots.tolist() == [[1, 2], [1, 2]]
    assert (text.end + 1).tolist() == [1 + 2 + 2 + 1, 12 + 2], "slots come on top of caption_length"
    assert model.count_cut(captions) == 1


@torch.no_grad()
def test_features_are_normalised_and_those_that_are_compared() -> None:
    batch = pair_batch()
    for make in (make_clip, make_blip, make_albef, make_beit3):
        model = VLModel(make(), NoTuner(), RetrievalHead())
        image, text = model(**batch, mode="tensor")
        torch.testing.assert_close(image, F.normalize(model.backbone.encode_image(batch["images"]), dim=-1))
        words = model.backbone.encode_text(model.caption_text(batch["captions"]))
        torch.testing.assert_close(text, F.normalize(words, dim=-1))
        similarity = [sample["similarity"] for sample in model(**batch, mode="predict")]
        torch.testing.assert_close((image * text).sum(1), torch.tensor(similarity))


def test_unknown_mode(batch: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"mode \('features'\) must be 'loss', 'predict' or 'tensor'"):
        make_model(NoTuner())(**batch, mode="features")


def test_predictions_are_the_best_classes_in_order(batch: dict[str, Any]) -> None:
    names = tuple(f"thing {i}" for i in range(7))
    batch["classes"] = ClassNames(names)
    model = make_model(NoTuner())
    predictions = model(**batch, mode="predict")
    image = F.normalize(model.backbone.encode_image(batch["images"]), dim=-1)
    cosine = image @ F.normalize(features(model, batch["classes"]), dim=-1).t()
    assert [p["label"] for p in predictions] == [0, 1, 2, 3]
    assert [p["top"] for p in predictions] == cosine.sort(descending=True).indices[:, :5].tolist()


def test_fewer_classes_than_are_shown(batch: dict[str, Any]) -> None:
    assert all(sorted(p["top"]) == [0, 1, 2, 3] for p in make_model(NoTuner())(**batch, mode="predict"))


def test_loss_is_cross_entropy_with_smoothing_and_a_bounded_scale(batch: dict[str, Any]) -> None:
    model = make_model(NoTuner(), ClassificationHead(label_smoothing=0.2))
    with torch.no_grad():
        model.backbone.logit_scale.fill_(9.0)
    image = F.normalize(model.backbone.encode_image(batch["images"]), dim=-1)
    log_p = (100 * image @ F.normalize(features(model), dim=-1).t()).log_softmax(1)
    target = 0.8 * F.one_hot(batch["labels"], 4) + 0.2 / 4
    losses = model(**batch, mode="loss")
    torch.testing.assert_close(losses["loss"], -(target * log_p).sum(1).mean())
    assert losses["accuracy"] == (log_p.argmax(1) == batch["labels"]).float().mean()


@pytest.mark.parametrize("value", [-0.1, 1.0])
def test_smoothing_outside_its_range(value: float) -> None:
    with pytest.raises(ValueError, match=r"label_smoothing \(.*\) must be at least 0 and below 1"):
        ClassificationHead(label_smoothing=value)
