"""A maker of valid records, whose numbers the tests set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from petl_zoo.results.record import Record, canonical_json, record_id

BACKBONE_PARAMETERS = 1_000_000


def _make_record(
    *, tuner: str = "MaPLe", seed: int = 0, options: dict[str, Any] | None = None, protocol: str = "few_shot",
    metrics: dict[str, float] | None = None, trainable: int = 10_000, status: str = "success", day: int = 1,
    device: str = "cpu", learning_rate: float = 0.01, step: float | None = 0.0125, peak: int | None = None,
    data_hash: str = "da" * 8, backbone: str = "clip_tiny", lower: tuple[str, ...] = (), ranks: tuple[str, ...] = (),
) -> Record:
    options = options or {}
    setting = canonical_json([tuner, options, learning_rate, backbone])
    identity = {
        "config_hash": hashlib.sha256(setting.encode()).hexdigest(),
        "protocol": {"name": protocol, "version": 1, "hash": hashlib.sha256(protocol.encode()).hexdigest()},
        "seed": seed,
        "data": {"name": "glyphs", "hash": data_hash, "num_train": 1600, "num_test": 2000, "shots": 16},
    }
    success = status == "success"
    values = {"accuracy": 0.5} if metrics is None else metrics
    return {
        "schema_version": 2, "id": record_id(identity), "created_at": f"2026-11-{day:02}T10:00:00+00:00",
        "status": status, "error": None if success else "out of\nmemory", "identity": identity,
        "components": {
            "backbone": {"type": "CLIP", "name": backbone, "checkpoint": "weights/clip_tiny.safetensors",
                         "sha256": "ab" * 32, "parameters": BACKBONE_PARAMETERS},
            "tuner": {"type": tuner, "options": options}, "head": {"type": "Classification"},
        },
        "metrics": {name: {"value": value, "unit": "rank" if name in ranks else "fraction",
                           "higher_is_better": name not in (*lower, *ranks), "n": 2000, "of": "images"}
                    for name, value in values.items()} if success else {},
        "selection": {"learning_rate": learning_rate, "rule": "validation accuracy", "trials": "trials.json"},
        "cost": {
            "parameters": {"total": BACKBONE_PARAMETERS + trainable, "trainable": trainable,
                           "share": trainable / BACKBONE_PARAMETERS,
                           "by_stream": {"vision": 0, "text": trainable},
                           "by_role": {"prompt": trainable}, "added_at_inference": trainable},
            "memory_bytes": {"peak_allocated": peak, "peak_reserved": peak},
            "time_s": {"total": 30.0, "train": 20.0, "eval": 5.0, "step_median": step, "step_p95": step},
            "flops": {"forward": 123, "convention": "2 per multiply-add"},
            "latency_s": {"adapted": 0.01, "merged": None, "bare": 0.008, "batch_size": 64},
            "checkpoint_bytes": 4096,
        },
        "provenance": {"commit": "c0ffee" * 6 + "abcd", "dirty": False, "versions": {"mmengine": "0.11.0rc3"},
                       "python": "3.11.7", "torch": "2.14.1", "device": device, "precision": "float32",
                       "world_size": 1, "effective_batch": 32,
                       "command": "python tools/train.py configs/glyphs/clip_maple.py"},
    }


@pytest.fixture
def make_record() -> Callable[..., Record]:
    """Return a function that makes a valid record; its keywords set what a test is about."""
    return _make_record
