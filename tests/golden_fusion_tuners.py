"""The tuners of ``test_golden_fusion``: each makes the tuner of a case and tells the official name of each parameter.

Our names are those within the model. An official name may end in columns, ``NAME[0:4]``: that part of the tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from petl_zoo.tuners import Aurora, Tuner, UniAdapter

if TYPE_CHECKING:
    from tests.test_golden_fusion import Case

Made = tuple[Tuner, dict[str, str]]
# Where a tower's parameters are: ours, and in the official files.
VISION = ("vision.layers", "visual_encoder.blocks")
TEXT = ("text.layers", "text_encoder.encoder")
DECODER = ("decoder.layers", "text_decoder.bert.encoder")


def official(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """A tensor by its official name, or the columns that the name ends in."""
    name, _, columns = name.partition("[")
    if not columns:
        return tensors[name]
    first, last = columns.rstrip("]").split(":")
    return tensors[name][:, int(first) : int(last)]


def average(case: Case, name: str) -> Tensor | None:
    """The momentum copy of a tensor before the step; None where the official code has none and takes the live one."""
    top, _, rest = name.partition(".")
    copy = f"{top}_m.{rest}"
    if copy.partition("[")[0] not in case.weights:
        return None
    if top == "adapters":  # They sit in both encoders, and the official step moves either's: twice for us to once.
        return case.weights[copy].lerp(case.weights[name], 1 - case.meta["config"]["momentum"])
    return official(case.weights, copy)


def depth(case: Case, pattern: str) -> int:
    """How many layers have a parameter of a name with ``#`` in place of the layer's number."""
    return next(i for i in range(100) if pattern.replace("#", str(i)) not in case.weights)


def uniadapter(case: Case) -> Made:
    parts = {
        "norm": "adapter_layer_norm_before",
        "fusion_norm": "adapter_layer_norm_cross_modal",
        "down": "down_proj",
        "up.text": "up_proj",
        "up.fusion": "multi_up_proj",
        "up.vision": "visual_up_proj",
    }
    rank, width = case.weights["adapters.0.down_proj.weight"].shape
    names = {
        f"tuner.adapters.{width}.{i}.{ours}.{kind}": f"adapters.{i}.{theirs}.{kind}"
        for i in range(depth(case, "adapters.#.down_proj.weight"))
        for ours, theirs in parts.items()
        for kind in ("weight", "bias")
    }
    for stream, (_, tower) in (("fusion", TEXT), ("decoder", DECODER)):
        for part, theirs in (("k", f"{tower}.video_key_adapter"), ("v", f"{tower}.video_value_adapter")):
            if f"{theirs}.scale" in case.weights:
                names[f"tuner.{stream}_pair.{part}.scale"] = f"{theirs}.scale"
                for side in ("down", "up"):
                    for kind in ("weight", "bias"):
                        names[f"tuner.{stream}_pair.{part}.{side}.{kind}"] = f"{theirs}.{side}_proj.{kind}"
    pair = case.weights.get("text_encoder.encoder.video_key_adapter.down_proj.weight")
    return UniAdapter(rank=rank, cross_rank=None if pair is None else len(pair)), names


def aurora(case: Case) -> Made:
    rank, width = case.weights["CP_U.weight"].shape
    names = {
        f"tuner.shared.U.{width}": "CP_U.weight",
        f"tuner.shared.V.{width}": "CP_V.weight",
        "tuner.shared.C": "CP_C",
    }
    ours, theirs = VISION
    for i in range(depth(case, f"{theirs}.#.mlp.mlp_CP")):
        for column, part in enumerate(("q", "k", "v", "out")):
            names[f"backbone.{ours}.{i}.attn.{part}.mode"] = f"{theirs}.{i}.attn.CP_attention[{column}:{column + 1}]"
        names[f"backbone.{ours}.{i}.fc1.mode"] = f"{theirs}.{i}.mlp.mlp_CP[0:4]"
        names[f"backbone.{ours}.{i}.fc2.mode"] = f"{theirs}.{i}.mlp.mlp_CP[4:8]"
    names |= dict(_aurora_bert(case, "fusion", *TEXT)) | dict(_aurora_bert(case, "decoder", *DECODER))
    return Aurora(rank=rank), names


def _aurora_bert(case: Case, stream: str, ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    for i in range(depth(case, f"{theirs}.layer.#.CP_scaleself")):
        layer = f"{theirs}.layer.{i}"
        for part in "qkv":
            yield f"backbone.{ours}.{i}.attn.{part}.mode", f"{layer}.attention.self.{part}_CP"
            yield f"backbone.{ours}.{i}.cross.{part}.mode", f"{layer}.crossattention.self.{part}_CP"
        for kind in ("scale", "shift"):
            for side in ("self", "cross"):
                yield f"tuner.{stream}.{i}.{kind}_{side}", f"{layer}.CP_{kind}{side}"


TUNERS: dict[str, Callable[[Case], Made]] = {
    "uniadapter_blip": uniadapter,
    "uniadapter_blip_vqa": uniadapter,
    "aurora_blip": aurora,
    "aurora_blip_vqa": aurora,
}
