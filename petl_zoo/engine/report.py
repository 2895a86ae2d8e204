"""The record of a run, and its table on the terminal."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from petl_zoo.evaluation import Measure
from petl_zoo.results.record import SCHEMA_VERSION, Record, record_id

from . import costs
from .hooks import StepTimer
from .identity import config_hash
from .optimizers import autocast
from .parts import describe
from .runner import ZooRunner

PACKAGES = ("petl_zoo", "mmengine", "torchvision", "transformers", "loralib", "numpy", "safetensors")
TRIALS_NAME = "trials.json"
TRIALS_PATTERN = "trials*.json"  # A folder may hold configs of several protocols, each with a file of trials.


def make_record(runner: ZooRunner, metrics: Mapping[str, float]) -> Record:
    """Make the record of a run that was evaluated; every process must call it, the first one's is written."""
    model = runner.vl_model.eval()
    config, loaders = runner.cfg["model"], runner.test_loop.loaders
    batch = next(iter(next(iter(loaders.values()))))
    timer = next(hook for hook in runner._hooks if isinstance(hook, StepTimer))
    with autocast(runner.test_loop.amp, model.backbone.like.device):
        flops = costs.forward_flops(model, batch)
        latency = costs.latencies(model, config["backbone"], batch)
    median, p95 = timer.median_and_p95()
    sizes = {name: len(loader.dataset) for name, loader in loaders.items()}
    data = describe(**{key: runner.cfg["train_dataloader"]["dataset"][key] for key in ("dataset", "protocol", "seed")})
    identity = {
        "config_hash": config_hash(runner.identity),
        "protocol": data["protocol"],
        "seed": runner.seed,
        "data": {**data["data"], "num_test": sum(sizes.values())},
    }
    tuner = runner.identity["config"]["tuner"]
    source = config["backbone"].get("checkpoint")
    return {
        "schema_version": SCHEMA_VERSION,
        "id": record_id(identity),
        "created_at": datetime.now(timezone.utc).isoformat(),
        "status": "success",
        "error": None,
        "identity": identity,
        "components": {
            "backbone": {
                "type": config["backbone"]["type"],
                "name": Path(source.split(":")[-1]).name if source else config["backbone"]["type"],
                "checkpoint": source,
                "sha256": None if model.loaded is None else model.loaded.sha256,
                "parameters": model.backbone_parameters,
            },
            "tuner": {"type": tuner["type"], "options": {k: v for k, v in tuner.items() if k != "type"}},
            "head": {"type": config["head"]["type"]},
        },
        # What the protocol computes from several sets has no measure of its own.
        "metrics": {
            name: _metric(value, runner.test_loop.measures.get(name, Measure())) for name, value in metrics.items()
        },
        "selection": _selection(runner),
        "cost": {
            "parameters": costs.parameters(model),
            "memory_bytes": costs.memory_bytes(),
            "time_s": {
                "total": timer.total_s(),
                "train": timer.train_s,
                "eval": timer.eval_s,
                "step_median": median,
                "step_p95": p95,
            },
            "flops": {"forward": flops, "convention": costs.flops_convention(model)},
            "latency_s": latency,
            "checkpoint_bytes": costs.checkpoint_bytes(model),
        },
        "provenance": _provenance(runner, trained=timer.train_s is not None),
    }


def _metric(value: float, measure: Measure) -> dict[str, Any]:
    return {
        "value": value,
        "unit": measure.unit,
        "higher_is_better": measure.unit != "rank",
        "n": measure.n,
        "of": measure.of,
    }


def _selection(runner: ZooRunner) -> dict[str, Any]:
    """The learning rate, and the trials it was chosen from if a file beside the config has them."""
    none: dict[str, Any] = {"learning_rate": None, "rule": None, "trials": None}
    if not runner.vl_model.roles:
        return none
    rate = runner.identity["config"]["schedule"]["lr"]
    if runner.cfg.filename:
        config = Path(runner.cfg.filename)
        for path in sorted(config.parent.glob(TRIALS_PATTERN)):
            trials = json.loads(path.read_text())
            chosen = trials["chosen"].get(config.stem)
            if chosen is not None and chosen["lr"] == rate:
                return {"learning_rate": rate, "rule": trials["rule"], "trials": path.name}
    return {**none, "learning_rate": rate}


def _provenance(runner: ZooRunner, *, trained: bool) -> dict[str, Any]:
    schedule = runner.identity["config"]["schedule"]
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # A bare clone is not installed.
            continue
    root = Path(__file__).resolve().parents[2]
    commit, status = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain")
    return {
        "commit": commit or None,
        "dirty": None if status is None else bool(status),
        "versions": versions,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu ({_processor()})",
        "precision": "bfloat16 autocast" if runner.test_loop.amp else "float32",
        "world_size": runner.world_size,
        "effective_batch": schedule["batch_size"] * runner.world_size * schedule["accumulate"] if trained else None,
        "command": " ".join([Path(sys.executable).name, *sys.argv]),
    }


def _git(root: Path, *command: str) -> str | None:
    try:
        done = subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    names = Path("/proc/cpuinfo")
    if names.is_file():
        for line in names.read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()}, {torch.get_num_threads()} threads"
    return f"{platform.machine()}, {torch.get_num_threads()} threads"


def print_record(record: Record, path: Path) -> None:
    """Print what came out and what it cost."""
    tuner, backbone = record["components"]["tuner"]["type"], record["components"]["backbone"]["name"]
    cost, protocol = record["cost"], record["identity"]["protocol"]["name"]
    table = Table(title=f"{tuner} on {backbone}, {protocol}, seed {record['identity']['seed']}", min_width=60)
    table.add_column("result")
    table.add_column("value", justify="right")
    table.add_column("")
    for name, metric in record["metrics"].items():
        # A rank is not one of so many, but a median over so many.
        rank = metric["unit"] == "rank"
        value = f"{metric['value']:.1f}" if rank else f"{100 * metric['value']:.1f} %"
        samples = f"{'over' if rank else 'of'} {metric['n']:,} {metric['of']}" if metric["n"] else ""
        table.add_row(name.replace("_", " "), value, samples)
    table.add_section()
    parameters, times, latency = cost["parameters"], cost["time_s"], cost["latency_s"]
    share = f"{100 * parameters['share']:.3g} % of the backbone's"
    table.add_row("trained parameters", f"{parameters['trainable']:,}", share)
    rows = [
        ("training step, median", times["step_median"], "ms", "data included"),
        ("one evaluation batch", latency["adapted"], "ms", f"{latency['batch_size']} images"),
        ("the same, tuner merged", latency["merged"], "ms", ""),
        ("the same, bare backbone", latency["bare"], "ms", ""),
    ]
    for name, seconds, unit, note in rows:
        if seconds is not None:
            table.add_row(name, f"{1000 * seconds:.1f} {unit}", note)
    table.add_row("arithmetic of one pass", f"{cost['flops']['forward'] / 1e9:.3g} GFLOP", "2 per multiply-add")
    if cost["memory_bytes"]["peak_allocated"] is not None:
        table.add_row("peak memory", f"{cost['memory_bytes']['peak_allocated'] / 2**20:.0f} MiB", "")
    if cost["checkpoint_bytes"] is not None:
        table.add_row("checkpoint", f"{cost['checkpoint_bytes'] / 1000:.1f} kB", "the tuner alone")
    table.add_row("time in all", f"{times['total']:.0f} s", "")
    console = Console()
    console.print(table)
    console.print(f"Record: {path}", markup=False, highlight=False, soft_wrap=True)
