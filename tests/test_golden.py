"""Compare with tensors computed by the methods' official code.

Every folder in ``tests/golden``, and in the folder that ``PETL_ZOO_GOLDEN`` names, is one case:
``weights.safetensors`` under the official names, ``io.safetensors`` with inputs, outputs and gradients (``grad.NAME``),
and ``meta.json``. A kind of case is a function that puts the official parameters into ours; sizes are read from shapes,
so a case of other sizes needs no code.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from petl_zoo.backbones import CLIP
from petl_zoo.backbones.embeddings import place
from petl_zoo.backbones.formats import CLIP_OPENAI
from petl_zoo.data.classes import ClassNames
from petl_zoo.heads import ClassificationHead
from petl_zoo.model import VLModel
from petl_zoo.tuners import IVLP, MPL, VPT, CoCoOp, CoOp, FullFineTuning, MaPLe, Tuner

HERE = Path(__file__).parent / "golden"

# Stated with the tensors: float64 to 1e-6; float32 as far as its rounding goes.
TOLERANCE = {
    torch.float64: {"value": (0.0, 1e-6), "logits": (0.0, 1e-6), "grad": (0.0, 1e-6)},
    torch.float32: {"value": (1e-4, 1e-5), "logits": (1e-4, 5e-5), "grad": (1e-3, 1e-5)},
}


def cases() -> list[Path]:
    """Every folder with a case in it, those shipped first."""
    roots = [HERE, *(Path(p) for p in [os.environ.get("PETL_ZOO_GOLDEN")] if p)]
    return [meta.parent for root in roots for meta in sorted(root.glob("*/meta.json"))]


class StubTokenizer:
    """The words of a case's ``meta.json``."""

    def __init__(self, meta: dict[str, Any]) -> None:
        words = meta["tokenisation"]
        self.start, self.end, self.pad = words["SOT"], words["EOT"], words["pad"]
        self.context_length = meta["config"]["context_length"]
        self.ids = dict(words["word_ids"])
        for name, ids in words["classname_ids"].items():
            self.ids.update(zip(name.split(), ids, strict=True))

    def encode(self, text: str) -> list[int]:
        return [self.ids[word] for word in text.replace(".", " .").split()]


@dataclass
class Case:
    """A case in one precision."""

    folder: Path
    meta: dict[str, Any]
    dtype: torch.dtype
    weights: dict[str, Tensor]
    io: dict[str, Tensor]

    @classmethod
    def read(cls, folder: Path, dtype: torch.dtype) -> Case:
        def tensors(path: Path) -> dict[str, Tensor]:
            return {k: v.to(dtype) if v.is_floating_point() else v for k, v in load_file(path).items()}

        meta = json.loads((folder / "meta.json").read_text())
        return cls(folder, meta, dtype, tensors(folder / "weights.safetensors"), tensors(folder / "io.safetensors"))

    def backbone(self) -> CLIP:
        c = self.meta["config"]
        clip = CLIP(
            image_size=c["image_resolution"],
            patch_size=c["vision_patch_size"],
            vision_width=c["vision_width"],
            vision_layers=c["vision_layers"],
            vision_heads=c["vision_heads"],
            text_width=c["transformer_width"],
            text_layers=c["transformer_layers"],
            text_heads=c["transformer_heads"],
            context_length=c["context_length"],
            vocabulary=c["vocab_size"],
            embed_dim=c["embed_dim"],
            tokenizer=StubTokenizer(self.meta),
        ).to(self.dtype)
        base = self.folder / self.meta.get("base_weights", "weights.safetensors")
        state = load_file(base if base.exists() else HERE / "clip" / "weights.safetensors")
        converted, unknown = CLIP_OPENAI.convert(state)
        assert not unknown
        clip.load_state_dict(converted)
        return clip

    def model(self, tuner: Tuner) -> VLModel:
        return VLModel(self.backbone(), tuner, ClassificationHead(), self.names)

    @property
    def names(self) -> list[str]:
        return list(self.meta["tokenisation"]["classname_ids"])

    def batch(self) -> dict[str, Any]:
        classes = ClassNames(tuple(self.names), ("a photo of a {}.",))
        return {"images": self.io["image"], "labels": self.io["label"], "classes": classes}

    def close(self, actual: Tensor, name: str, kind: str = "value") -> None:
        rtol, atol = TOLERANCE[self.dtype][kind]
        expected = self.io[name].reshape(actual.shape)
        torch.testing.assert_close(actual.detach(), expected, rtol=rtol, atol=atol, msg=lambda m: f"{name}: {m}")


def number(name: str) -> int:
    """The last number in a name."""
    return int(re.findall(r"\d+", name)[-1])


def prompts(case: Case, *patterns: str) -> list[Tensor]:
    """Official parameters in the order of the numbers in their names; a pattern matches the whole name."""
    found: list[str] = []
    for pattern in patterns:
        found += sorted((n for n in case.weights if re.fullmatch(pattern, n)), key=number)
    return [case.weights[n] for n in found]


# A kind of case: a function from the case to the tuner and the official name of each of the tuner's parameters.
Made = tuple[Tuner, dict[str, str]]
DEEP_TEXT = r"transformer\.resblocks\.\d+\.VPT_shallow"
DEEP_VISION = r"visual\.transformer\.resblocks\.\d+\.VPT_shallow"


def coop(case: Case) -> Made:
    ctx = case.weights["prompt_learner.ctx"]
    tuner = CoOp(length=ctx.shape[-2], class_specific=ctx.dim() == 3, init=case.meta["trainer_cfg"]["CTX_INIT"] or None)
    return tuner, {"text_context": "prompt_learner.ctx"}


def cocoop(case: Case) -> Made:
    ctx, hidden = case.weights["prompt_learner.ctx"], case.weights["prompt_learner.meta_net.linear1.weight"]
    tuner = CoCoOp(length=len(ctx), reduction=hidden.shape[1] // hidden.shape[0])
    names = {
        f"meta_{side}.{part}": f"prompt_learner.meta_net.linear{i}.{part}"
        for i, side in ((1, "in"), (2, "out"))
        for part in ("weight", "bias")
    }
    return tuner, {"text_context": "prompt_learner.ctx", **names}


def numbered(ours: str, first: str, deep: str, case: Case) -> dict[str, str]:
    """Names of a list of prompts: the first, then the deep ones in the order of their layers."""
    later = sorted((n for n in case.weights if re.fullmatch(deep, n)), key=number)
    return {f"{ours}.{i}": name for i, name in enumerate([first, *later])}


def vpt(case: Case) -> Made:
    names = numbered("vision", "visual.VPT", DEEP_VISION, case)
    return VPT(length=len(case.weights["visual.VPT"]), depth=len(names)), names


def ivlp(case: Case) -> Made:
    text = numbered("text", "prompt_learner.ctx", DEEP_TEXT, case)
    vision = numbered("vision", "visual.VPT", DEEP_VISION, case) if "visual.VPT" in case.weights else {}
    tuner = IVLP(
        length=len(case.weights["prompt_learner.ctx"]),
        depth=len(text),
        vision_length=len(case.weights["visual.VPT"]) if vision else None,
        vision_depth=len(vision),
    )
    return tuner, {**text, **vision}


def maple(case: Case) -> Made:
    names = numbered("text", "prompt_learner.ctx", r"prompt_learner\.compound_prompts_text\.\d+", case)
    depth = len(names)
    for part in ("weight", "bias"):
        names[f"coupling.0.{part}"] = f"prompt_learner.proj.{part}"
        for i in range(depth - 1):
            names[f"coupling.{i + 1}.{part}"] = f"prompt_learner.compound_prompt_projections.{i}.{part}"
    return MaPLe(length=len(case.weights["prompt_learner.ctx"]), depth=depth), names


def mpl(case: Case) -> Made:
    names = numbered("text", "prompt_learner.ctx", r"prompt_learner\.compound_prompts_text\.\d+", case)
    depth, add = len(names), case.meta["trainer_cfg"]["N_ADD_OP"]
    for part in ("weight", "bias"):
        names[f"coupling.{part}"] = f"prompt_learner.proj.{part}"
        for layer in range(depth - 1):
            for u in range(add):
                names[f"deep_coupling.{layer}.{u}.{part}"] = f"prompt_learner.txt2img_proj.{u}.{layer}.{part}"
    length = len(case.weights["prompt_learner.ctx"])
    return MPL(length=length, depth=depth, add=add, remove=case.meta["trainer_cfg"]["N_RM_OP"]), names


KINDS: dict[str, Callable[[Case], Made]] = {
    "clip_coop": coop,
    "clip_cocoop": cocoop,
    "clip_vpt": vpt,
    "clip_ivlp": ivlp,
    "clip_maple": maple,
    "clip_mpl": mpl,
}


# Cases of the other backbones, which test_golden_fusion runs.
FUSED = ("blip", "albef", "beit3", "uniadapter", "aurora")


def kind_of(folder: Path) -> str | None:
    """The kind of a case: its folder's name, or the beginning of it up to an underscore."""
    if folder.name == "clip":
        return "clip"
    return next((k for k in KINDS if folder.name == k or folder.name.startswith(k + "_")), None)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("plain", [False, True], ids=["fast", "plain"])
@pytest.mark.parametrize(
    "folder", [folder for folder in cases() if not folder.name.startswith(FUSED)], ids=lambda folder: folder.name
)
def test_golden(folder: Path, plain: bool, dtype: torch.dtype) -> None:
    kind = kind_of(folder)
    if kind is None:
        pytest.skip(f"no backbone or tuner of this project computes {folder.name} yet")
    case = Case.read(folder, dtype)
    if kind == "clip":
        check_backbone(case, plain)
    else:
        check_tuner(case, *KINDS[kind](case), plain)


def check_tuner(case: Case, tuner: Tuner, names: dict[str, str], plain: bool) -> None:
    model = case.model(tuner)
    model.backbone.plain = plain
    tuner.load_state_dict({ours: case.weights[theirs] for ours, theirs in names.items()})
    batch = case.batch()
    assert isinstance(model.head, ClassificationHead)

    logits = model.head.logits(model, batch["images"], batch["classes"])
    case.close(logits, "logits", "logits")
    losses = model(**batch, mode="loss")
    case.close(losses["loss"], "loss")
    losses["loss"].backward()
    grads = {name: p.grad for name, p in tuner.named_parameters()}
    expected = {n.removeprefix("grad.") for n in case.io if n.startswith("grad.")}
    assert expected == set(names.values()), "every trained parameter has a golden gradient"
    for ours, theirs in names.items():
        grad = grads[ours]
        assert grad is not None, f"no gradient reaches {ours}"
        case.close(grad, f"grad.{theirs}", "grad")

    plan = tuner.plan(torch.zeros(1, model.backbone.embed_dim, dtype=case.dtype) if tuner.conditioned else None)
    if "image_features" in case.io:
        case.close(model.image_features(batch["images"], plan), "image_features")
    if "text_features" in case.io:
        case.close(model.class_features(batch["classes"], plan), "text_features")
    check_prompts(case, model, plan)
    if isinstance(tuner, CoOp):
        check_positions(case)


def check_prompts(case: Case, model: VLModel, plan: Any) -> None:
    """The prompts that enter the towers: the text's embeddings up to the end token, and the derived vision prompts."""
    vision = plan.of("vision")
    if "shared_ctx_vision" in case.io:
        case.close(vision.context, "shared_ctx_vision")
    for name in (n for n in case.io if n.startswith("deep_vision.")):
        case.close(vision.swaps[number(name) + 1].add, name)
    if "prompts" not in case.io or model.tuner.conditioned:
        return
    backbone = model.backbone
    assert isinstance(backbone, CLIP)
    assert model.tuner.template is not None
    text = model.text(model.tuner.template, case.names)
    context = plan.of("text").context
    x = place(backbone.text_embed.token(text.ids)[None], text.slots, context.reshape(1, -1, *context.shape[-2:]))[0]
    for row, end in enumerate(text.end.tolist()):
        expected = case.io["prompts"][row, : end + 1]
        torch.testing.assert_close(x[row, : end + 1].detach(), expected, rtol=1e-5, atol=1e-6)


def check_positions(case: Case) -> None:
    """CoOp's other settings with the same vectors: the name in the middle or in front, class-specific contexts."""
    batch = case.batch()
    length = len(case.weights["prompt_learner.ctx"])
    settings = {
        "logits_middle": ("prompt_learner.ctx", {"position": "middle"}),
        "logits_front": ("prompt_learner.ctx", {"position": "front"}),
        "logits_csc": ("csc.prompt_learner.ctx", {"class_specific": True}),
    }
    for output, (name, options) in settings.items():
        if output not in case.io:
            continue
        model = case.model(CoOp(length=length, **options))
        model.tuner.load_state_dict({"text_context": case.weights[name]})
        assert isinstance(model.head, ClassificationHead)
        case.close(model.head.logits(model, batch["images"], batch["classes"]), output, "logits")


def check_backbone(case: Case, plain: bool) -> None:
    model = case.model(FullFineTuning())
    backbone = model.backbone
    backbone.plain = plain
    hidden: dict[str, Tensor] = {}
    for stream, theirs in (("vision", "visual"), ("text", "text")):
        for i, (_, layer) in enumerate(backbone.layers(stream)):
            layer.register_forward_hook(
                lambda _module, _args, output, name=f"hidden.{theirs}.{i}": hidden.__setitem__(name, output)
            )
    image = backbone.encode_image(case.io["image"])
    text = backbone.encode_text(model.text("a photo of a {}.", case.names))
    case.close(image, "image_features")
    case.close(text, "text_features")
    logits = model.tuner.logits(image, text, backbone.logit_scale.exp(), case.names)
    case.close(logits, "logits_per_image", "logits")
    case.close(logits.t(), "logits_per_text", "logits")
    labels = torch.arange(len(logits))
    loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.t(), labels)) / 2
    case.close(loss, "loss")

    if plain:  # The fast path computes only the pooled token in the last layer, and text in pieces.
        for name, output in hidden.items():
            case.close(output, name)
    else:
        vision = [name for name in hidden if "visual" in name]
        for name in vision[:-1]:
            case.close(hidden[name], name)

    loss.backward()
    golden = {n.removeprefix("grad."): g for n, g in case.io.items() if n.startswith("grad.")}
    converted, unknown = CLIP_OPENAI.convert(golden)
    assert not unknown
    assert set(case.meta["learnable"]) == set(golden)
    grads = {name: p.grad for name, p in backbone.named_parameters()}
    rtol, atol = TOLERANCE[case.dtype]["grad"]
    for name, expected in converted.items():
        torch.testing.assert_close(grads[name], expected, rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}")
