"""What every tuner must keep, over all that the registry holds: a new tuner is tested because it is registered."""

from __future__ import annotations

import inspect
import io
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import petl_zoo.tuners  # noqa: F401  (registers them)
from petl_zoo.data.classes import ClassNames
from petl_zoo.heads import ClassificationHead
from petl_zoo.model import VLModel
from registry import TUNERS
from tests.conftest import NAMES, make_clip

# Defaults are the papers'; the test towers have three layers.
SMALL = {"depth": 3, "length": 3}

# Settings beside the default that take another way through the code.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "CoOp": [
        {"length": 4, "init": "a photo of a"},
        {"length": 3, "position": "middle"},
        {"length": 3, "position": "front"},
        {"length": 2, "class_specific": True},
        {"length": 4, "init": "a photo of a", "class_specific": True},
    ],
    "CoCoOp": [{"length": 6, "init": None}],
    "VPT": [{"length": 2, "depth": 1}],
    "IVLP": [{"length": 2, "depth": 2}, {"length": 5, "depth": 3, "vision_depth": 0}],
    "MaPLe": [{"length": 2, "depth": 2}, {"length": 2, "depth": 1}, {"length": 5, "depth": 3}],
    "MPL": [{"length": 1, "depth": 3, "add": 2, "remove": 1}, {"length": 2, "depth": 3, "add": 2, "remove": 3}],
    "LoRA": [
        {"rank": 2, "alpha": 8, "targets": ("attn.q", "attn.k", "attn.v", "attn.out", "fc1", "fc2")},
        {"rank": 3, "streams": ("vision",)},
        {"rank": 3, "streams": ("text",)},
    ],
    "BitFit": [{"streams": ("text",)}],
    "LinearProbe": [{"init": "zero"}],
}


def settings() -> list[Any]:
    """Every registered tuner at a small size, and its variants."""
    cases = []
    for name, cls in sorted(TUNERS.module_dict.items()):
        if not cls.__module__.startswith("petl_zoo."):
            continue
        known = inspect.signature(cls).parameters
        small = {key: value for key, value in SMALL.items() if key in known}
        for options in [small, *VARIANTS.get(name, [])]:
            shown = ",".join(f"{k}={v}" for k, v in options.items()).replace(" ", "")
            cases.append(pytest.param({"type": name, **options}, id=f"{name}({shown})"))
    return cases


every_setting = pytest.mark.parametrize("options", settings())


def make_model(options: dict[str, Any], seed: int = 0, dtype: torch.dtype = torch.float32) -> VLModel:
    clip = make_clip().to(dtype)
    torch.manual_seed(seed)
    return VLModel(clip, dict(options), ClassificationHead(), NAMES)


def logits(model: VLModel, batch: dict[str, Any]) -> Tensor:
    assert isinstance(model.head, ClassificationHead)
    return model.head.logits(model, batch["images"], batch["classes"])


def disturb(model: VLModel) -> None:
    """Move every trained parameter from its start, so that nothing is hidden by a zero."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.trained_parameters().values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


@every_setting
def test_only_declared_parameters_get_gradients_and_change(options: dict[str, Any], batch: dict[str, Any]) -> None:
    model = make_model(options)
    disturb(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained = model.trained_parameters()
    if not trained:
        assert not model(**batch, mode="loss")["loss"].requires_grad
        return
    optimizer = torch.optim.SGD(trained.values(), lr=0.1)
    model(**batch, mode="loss")["loss"].backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        if name in trained:
            assert parameter.grad is not None, f"no gradient reaches {name}"
            if name.endswith(".k.bias"):
                continue  # It shifts all scores of a query alike, which softmax does not see: its gradient is zero.
            assert not torch.equal(parameter, before[name]), f"{name} is trained, but did not change"
        else:
            assert not parameter.requires_grad, f"{name} is frozen, but takes a gradient"
            assert parameter.grad is None, f"{name} is frozen, but has a gradient"
            assert torch.equal(parameter, before[name]), f"{name} is frozen, but changed"


@every_setting
def test_count_is_the_closed_form(options: dict[str, Any]) -> None:
    model = make_model(options)
    counted = model.count()
    assert counted.trainable == model.tuner.count(model.backbone)
    assert counted.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(counted.by_stream.values()) == sum(counted.by_role.values()) == counted.trainable
    assert counted.total == model.backbone_parameters + counted.added


@every_setting
def test_meta_device_counts_the_same(options: dict[str, Any]) -> None:
    with torch.device("meta"):
        model = VLModel(make_clip_on_meta(), dict(options), ClassificationHead(), NAMES)
    assert model.count() == make_model(options).count()


def make_clip_on_meta() -> Any:
    from petl_zoo.backbones import CLIP
    from tests.conftest import SIZES

    return CLIP(**SIZES)


@every_setting
def test_state_saved_alone_and_loaded_gives_equal_outputs(options: dict[str, Any], batch: dict[str, Any]) -> None:
    model = make_model(options, seed=1)
    disturb(model)
    file = io.BytesIO()
    torch.save(model.trained_state(), file)
    file.seek(0)
    other = make_model(options, seed=2)
    other.load_trained_state(torch.load(file, weights_only=True))
    assert torch.equal(logits(model, batch), logits(other, batch))


@every_setting
def test_a_step_lowers_the_loss(options: dict[str, Any], batch: dict[str, Any]) -> None:
    model = make_model(options, dtype=torch.float64)
    batch["images"] = batch["images"].double()
    trained = list(model.trained_parameters().values())
    before = model(**batch, mode="loss")["loss"]
    if not trained:
        return
    grads = torch.autograd.grad(before, trained)
    size = torch.stack([g.norm() for g in grads]).norm()
    assert size > 0
    with torch.no_grad():
        for parameter, grad in zip(trained, grads, strict=True):
            parameter.sub_(1e-3 * grad / size)
    assert model(**batch, mode="loss")["loss"] < before


@every_setting
def test_merged_equals_adapted(options: dict[str, Any], batch: dict[str, Any]) -> None:
    model = make_model(options, dtype=torch.float64)
    batch["images"] = batch["images"].double()
    disturb(model)
    if not model.tuner.mergeable:
        with pytest.raises(ValueError, match="cannot be merged"):
            model.tuner.merge()
        with pytest.raises(ValueError, match="cannot be unmerged"):
            model.tuner.unmerge()
        return
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if name not in model.roles}
    adapted = logits(model, batch).detach()
    model.tuner.merge()
    changed = [name for name, p in model.named_parameters() if name in frozen and not torch.equal(p, frozen[name])]
    assert changed, "merging must change weights"
    with torch.no_grad():  # Merged, the tuner's own parameters have no part in the output.
        kept = {name: p.clone() for name, p in model.trained_parameters().items()}
        for parameter in model.trained_parameters().values():
            parameter.fill_(float("nan"))
        torch.testing.assert_close(logits(model, batch), adapted, rtol=0, atol=1e-12)
        for name, parameter in model.trained_parameters().items():
            parameter.copy_(kept[name])
    model.tuner.unmerge()
    for name, parameter in model.named_parameters():
        if name in frozen:
            torch.testing.assert_close(parameter.detach(), frozen[name], rtol=0, atol=1e-14)


@every_setting
def test_identity_at_init_where_the_method_says_so(options: dict[str, Any], batch: dict[str, Any]) -> None:
    model = make_model(options)
    if options.get("init") == "zero":
        pytest.skip("a probe from zero does not start from the backbone")
    same = torch.allclose(logits(model, batch), logits(make_model({"type": "NoTuner"}), batch), rtol=0, atol=1e-5)
    starts_from_words = options["type"] == "CoOp" and options.get("init") is not None
    assert same == (model.tuner.identity or starts_from_words)


@every_setting
def test_runs_in_bfloat16_autocast(options: dict[str, Any], batch: dict[str, Any]) -> None:
    model = make_model(options)
    full = model(**batch, mode="loss")["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        half = model(**batch, mode="loss")["loss"]
    assert torch.isfinite(half)
    assert half.item() == pytest.approx(full.item(), rel=0.1)
    if half.requires_grad:
        half.backward()
        for name, parameter in model.trained_parameters().items():
            assert parameter.grad is not None, name
            assert parameter.grad.dtype == torch.float32, name
            assert torch.isfinite(parameter.grad).all(), name


@every_setting
def test_no_tensor_is_left_on_the_wrong_device(options: dict[str, Any]) -> None:
    """The loss on fake CUDA tensors: shapes and devices are checked, nothing is computed, no GPU is needed."""
    with FakeTensorMode(allow_non_fake_inputs=False):
        with torch.device("cuda"):
            from petl_zoo.backbones import CLIP
            from tests.conftest import SIZES, WordTokenizer

            clip = CLIP(**SIZES, tokenizer=WordTokenizer())
        model = VLModel(clip, dict(options), ClassificationHead(), NAMES)
        assert {p.device.type for p in model.parameters()} == {"cuda"}
        images = torch.empty(4, 3, 16, 16, device="cuda")
        labels = torch.zeros(4, dtype=torch.long, device="cuda")
        losses = model(images=images, labels=labels, classes=ClassNames(NAMES, ("a photo of a {}.",)), mode="loss")
        assert losses["loss"].device.type == "cuda"


@every_setting
def test_fast_path_equals_the_plain_one(options: dict[str, Any], batch: dict[str, Any]) -> None:
    model = make_model(options, dtype=torch.float64)
    batch["images"] = batch["images"].double()
    disturb(model)
    results = []
    for plain in (False, True):
        model.backbone.plain = plain
        model.forget()
        model.zero_grad()
        loss = model(**batch, mode="loss")["loss"]
        if loss.requires_grad:
            loss.backward()
        grads = [p.grad.clone() for p in model.trained_parameters().values() if p.grad is not None]
        results.append([loss.detach(), *grads])
    for fast, plain_one in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain_one, rtol=0, atol=1e-10)


@every_setting
def test_a_batch_equals_its_images_one_by_one(options: dict[str, Any], batch: dict[str, Any]) -> None:
    model = make_model(options, dtype=torch.float64)
    disturb(model)
    images = batch["images"].double()
    together = logits(model, {**batch, "images": images})
    alone = torch.cat([logits(model, {**batch, "images": image[None]}) for image in images])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-10)


@every_setting
def test_equal_seeds_give_equal_starts(options: dict[str, Any]) -> None:
    first, second = make_model(options, seed=5).trained_state(), make_model(options, seed=5).trained_state()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@every_setting
def test_class_features_are_computed_once_an_evaluation(options: dict[str, Any], batch: dict[str, Any]) -> None:
    model = make_model(options)
    calls = []
    encode = model.backbone.encode_text
    model.backbone.encode_text = lambda *args: calls.append(1) or encode(*args)  # type: ignore[method-assign]
    with torch.no_grad():
        first = logits(model, batch)
        again = logits(model, batch)
        assert torch.equal(first, again)
        assert len(calls) == (2 if model.tuner.conditioned else 1)
        if model.roles:
            disturb(model)
            assert not torch.equal(logits(model, batch), first), "features of old parameters were used"
