"""Publish a pretrained backbone: fp16 weights under our names, and a card that says where they come from."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from .formats import FAMILIES
from .sources import CheckpointError, listed, read_state

__all__ = ["publish"]

Record = dict[str, Any]  # parsed JSON, as petl_zoo.results.record describes it


def publish(checkpoint: Path, out: Path) -> Path:
    """Write ``model.safetensors`` and ``CARD.md``, which together are what ``zoo:NAME`` finds.

    The folder may hold a tokenizer already; other files in it stay as they are. Each file is written beside
    its place and moved there, so that a full disk or a kill leaves no half of one.

    Args:
        checkpoint: of a finished pretraining run, in the run's work dir.
        out: folder to write to; its name is the weights' name.

    Returns:
        The path of the weights.

    Raises:
        CheckpointError: no checkpoint or record, a run that failed, or a checkpoint without a backbone.
        OSError: the folder cannot be written, or the disk is full.
    """
    if not checkpoint.is_file():
        raise CheckpointError(
            f"{checkpoint}: there is no such checkpoint; give a work dir that holds one, or a file."
        )
    record = _record(checkpoint.parent / "record.json")
    kind = record["components"]["backbone"]["type"]
    full = read_state(checkpoint)
    sizes = _sizes(full, kind, checkpoint)
    state = _halved(full, checkpoint)
    # One entry, because several are written in an order that changes from run to run.
    metadata = {"petl_zoo": json.dumps({"family": kind, "record": record["id"], "sizes": sizes})}
    weights = safetensors.torch.save(state, metadata)
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "model.safetensors", weights)
    _write(out / "CARD.md", _card(out.name, record, sizes, state, weights).encode())
    return out / "model.safetensors"


def _record(path: Path) -> Record:
    try:
        record: Record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: there is no readable record ({error}). Only a finished run has one, and the card needs "
            "it: resume the run with tools/train.py --resume."
        ) from error
    if record.get("status") != "success":
        raise CheckpointError(
            f"{path}: the run's status is {record.get('status')!r}; only a success is published."
        )
    return record


def _sizes(state: Mapping[str, Tensor], kind: str, path: Path) -> dict[str, int]:
    try:
        return FAMILIES[kind].sizes(state)
    except KeyError as error:
        raise CheckpointError(
            f"{path}: the checkpoint holds no whole {kind} under the project's names ({error} is missing); "
            f"its {len(state)} names begin with {listed(list(state)[:3])}. Publish a run of the tuner "
            "'full', whose files hold all."
        ) from error


def _halved(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    half = {name: tensor.to(torch.float16).contiguous() for name, tensor in state.items()}
    broken = [name for name, tensor in half.items() if not tensor.isfinite().all()]
    if broken:
        raise CheckpointError(
            f"{path}: not finite in fp16 (at most 65504): {listed(broken)}. The training "
            "diverged; see its log."
        )
    return half


def _card(
    name: str, record: Record, sizes: Mapping[str, int], state: Mapping[str, Tensor], weights: bytes
) -> str:
    identity, provenance, cost = record["identity"], record["provenance"], record["cost"]
    data, protocol, backbone = identity["data"], identity["protocol"], record["components"]["backbone"]
    # Where a run was written is no part of its recipe.
    command = re.sub(r" --work-dir[ =][^ ]+", "", provenance["command"])
    facts = {
        "Backbone": f"{backbone['type']}, {sum(t.numel() for t in state.values()):,} parameters, fp16",
        "Sizes": ", ".join(f"{key} {value}" for key, value in sizes.items()),
        "File": f"model.safetensors, {len(weights):,} bytes, sha256 {hashlib.sha256(weights).hexdigest()}",
        "Data": f"{data['name']} ({data['num_train']:,} training samples, hash {data['hash']})",
        "Protocol": f"{protocol['name']}, version {protocol['version']}, hash {protocol['hash']}",
        "Recipe": f"`{command}`, config hash {identity['config_hash']}",
        "Precision": provenance["precision"],
        "Learning rate": _or_unknown(record["selection"]["learning_rate"]),
        "Seed": identity["seed"],
        "Training time": f"{_or_unknown(cost['time_s']['train'])} s on {provenance['device']}",
        "Commit": _or_unknown(provenance["commit"])
        + (", with uncommitted changes" if provenance["dirty"] else ""),
        "Record": f"{record['id']}, made {record['created_at']}",
    }
    lines = [
        f"# {name}",
        "",
        "Written by tools/publish.py from the record of the run.",
        "",
        "| | |",
        "|---|---|",
    ]
    lines += [f"| {key} | {value} |" for key, value in facts.items()]
    lines += ["", "| Metric | Value | Of |", "|---|---|---|"]
    lines += [f"| {name} | {_score(metric)} | {_taken_over(metric)} |" for name, metric in record["metrics"].items()]
    return "\n".join(lines) + "\n"


def _score(metric: Mapping[str, Any]) -> str:
    # Records of version 1 have fractions alone, and no unit.
    return f"{metric['value']:g}" if metric.get("unit") == "rank" else f"{metric['value']:.2%}"


def _taken_over(metric: Mapping[str, Any]) -> str:
    return "" if metric["n"] is None else f"{metric['n']:,} {metric.get('of') or 'images'}"


def _or_unknown(value: object) -> str:
    return "unknown" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
