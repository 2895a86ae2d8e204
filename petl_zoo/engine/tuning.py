"""Choose learning rates on validation data, with the same few trials for every tuner."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from petl_zoo.results.record import write_text

from .config import assemble, identity_of
from .faults import ConfigError, Fault
from .identity import config_hash
from .launch import checked, fit
from .parts import describe

RULE = "highest validation accuracy after the last epoch; of equal ones the smallest rate"
METRIC = "val/accuracy"


def tune(configs: Sequence[Path], rates: Sequence[float], *, seed: int, out: Path, scratch: Path) -> dict[str, Any]:
    """Train every config at every rate, and note which rate is best on the validation set.

    A trial whose config, rate and seed the file has already is not run again.

    Args:
        configs: config files of one protocol and data set.
        rates: the learning rates; the same for all, so that no tuner gets more trials than another.
        seed: one seed for all trials; not one that results are reported for, unless shots are many.
        out: JSON file of all trials.
        scratch: folder for the trials' work dirs.

    Returns:
        What the file holds.

    Raises:
        ConfigError: a config is wrong, or the configs differ in protocol or data.
    """
    loaded = {path.stem: (path, checked(path, {"runtime.seed": seed})) for path in configs}
    setting = _setting({stem: cfg for stem, (_, cfg) in loaded.items()}, seed)
    content: dict[str, Any] = {"rule": RULE, "seed": seed, "setting": setting}
    for stem, (path, _) in loaded.items():
        done = {trial["config_hash"]: trial for trial in _known(out, setting).get(stem, [])}
        tried = []
        for rate in rates:
            cfg = checked(path, {"runtime.seed": seed, "schedule.lr": rate, "runtime.val_interval": 0})
            key = config_hash(identity_of(cfg))
            if key not in done:
                assembled = assemble(cfg, work_dir=scratch / stem / f"lr_{rate:g}", evaluate="val")
                assembled["log_level"] = "WARNING"
                _, metrics = fit(assembled)
                done[key] = {"lr": rate, "accuracy": metrics[METRIC], "config_hash": key}
            tried.append(done[key])
            print(f"{stem}  lr {rate:g}  validation accuracy {100 * done[key]['accuracy']:.1f} %", flush=True)
        trials = {**_known(out, setting), stem: tried}  # Read again: another process may tune other configs meanwhile.
        content |= {"trials": dict(sorted(trials.items())), "chosen": {k: _best(v) for k, v in sorted(trials.items())}}
        write_text(out, json.dumps(content, indent=2) + "\n")
    return content


def _known(out: Path, setting: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The trials that a file has for a protocol and data."""
    known = json.loads(out.read_text()) if out.is_file() else {}
    return known.get("trials", {}) if known.get("setting") == setting else {}


def _best(trials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    best = min(trials, key=lambda trial: (-trial["accuracy"] if math.isfinite(trial["accuracy"]) else 1.0, trial["lr"]))
    return {"lr": best["lr"], "accuracy": best["accuracy"], "trials": len(trials)}


def _setting(configs: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Protocol and data that all configs share."""
    found = {}
    for stem, cfg in configs.items():
        data = describe(cfg["dataset"], cfg["protocol"], seed)
        found[stem] = {"protocol": data["protocol"], "data": {key: data["data"][key] for key in ("name", "hash")}}
    first = next(iter(found.values()))
    other = [stem for stem, setting in found.items() if setting != first]
    if other:
        problem = f"{', '.join(other)}: not the protocol and data of {next(iter(found))}; tune them apart"
        raise ConfigError([Fault("protocol", problem)])
    return first
