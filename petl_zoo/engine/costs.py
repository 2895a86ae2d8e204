"""What a tuner costs: parameters, memory, time, arithmetic and bytes."""

from __future__ import annotations

import copy
import io
import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from petl_zoo.model import VLModel

WARM_UP, TIMED = 2, 9  # Forward passes before and within a measurement of latency.


def parameters(model: VLModel) -> dict[str, Any]:
    """Where the parameters are; ``share`` is of the bare backbone's."""
    count = model.count()
    return {
        "total": count.total,
        "trainable": count.trainable,
        "share": count.trainable / model.backbone_parameters,
        "by_stream": count.by_stream,
        "by_role": count.by_role,
        "added_at_inference": 0 if model.tuner.mergeable else count.added,
    }


def memory_bytes() -> dict[str, int | None]:
    """Peak memory of the accelerator since the first steps; None on a CPU."""
    if not torch.cuda.is_available():
        return {"peak_allocated": None, "peak_reserved": None}
    return {
        "peak_allocated": torch.cuda.max_memory_allocated(),
        "peak_reserved": torch.cuda.max_memory_reserved(),
    }


def checkpoint_bytes(model: VLModel) -> int | None:
    """Size of the trained parameters as a file, without optimizer; None where nothing is trained."""
    state = model.trained_state()
    if not state:
        return None
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.tell()


def flops_convention(model: VLModel) -> str:
    """What ``forward_flops`` counts."""
    return f"2 per multiply-add; one {model.head.forward_pass}"


@torch.no_grad()
def forward_flops(model: VLModel, batch: Mapping[str, Any]) -> int:
    """Floating-point operations of one sample's forward pass; see ``flops_convention``."""
    one = {key: value[:1] if isinstance(value, torch.Tensor | list) else value for key, value in batch.items()}
    one = model.data_preprocessor(model.head.probe(one), False)
    model(**one, mode="predict")  # Fills the cache.
    # Fused attention is invisible to the counter on CPUs; as plain matrix products it counts the same everywhere.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(**one, mode="predict")
    return counter.get_total_flops()


@torch.no_grad()
def latency_s(model: VLModel, batch: Mapping[str, Any]) -> float:
    """Median seconds of a batch's forward pass, class features cached where they can be."""
    batch = model.data_preprocessor(model.head.probe(dict(batch)), False)
    times = []
    for _ in range(WARM_UP + TIMED):
        begin = time.perf_counter()
        model(**batch, mode="predict")
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[WARM_UP:])


def latencies(model: VLModel, backbone: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, Any]:
    """Latency with the tuner, merged into the backbone where that is possible, and of the bare backbone.

    Args:
        model: in evaluation mode.
        backbone: the backbone's config; its weights do not matter here and are not loaded.
        batch: one evaluation batch.
    """
    adapted = latency_s(model, batch)
    merged = None
    if model.tuner.mergeable:
        saved = {name: value.clone() for name, value in model.state_dict().items()}
        model.tuner.merge()
        merged = latency_s(model, batch)
        model.tuner.unmerge()
        model.load_state_dict(saved)  # Folding in and out again rounds.
    with torch.device(model.backbone.like.device):
        config = {**backbone, "checkpoint": None, "tokenizer": model.backbone.tokenizer}
        bare = VLModel(config, {"type": "NoTuner"}, copy.deepcopy(model.head))
    return {
        "adapted": adapted,
        "merged": merged,
        "bare": latency_s(bare.eval(), batch),
        "batch_size": len(batch["images"]),
    }
