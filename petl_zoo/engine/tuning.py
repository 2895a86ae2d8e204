"""Choose learning rates on validation data, with the same few trials for every tuner."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from petl_zoo.results.record import write_text
from registry import HEADS, METRICS

from .config import assemble, identity_of
from .faults import ConfigError, Fault
from .identity import config_hash
from .launch import checked, fit
from .parts import describe

RULE = "highest validation {} after the last epoch; of equal ones the smallest rate"


def tune(configs: Sequence[Path], rates: Sequence[float], *, seed: int, out: Path, scratch: Path) -> dict[str, Any]:
    """Train every config at every rate, and note which rate is best on the validation set.

    A trial whose config, rate and seed the file has already is not run again.

    Args:
        configs: config files of one protocol and data set, with heads of one metric.
        rates: the learning rates; the same for all, so that no tuner gets more trials than another.
        seed: one seed for all trials; not one that results are reported for, unless shots are many.
        out: JSON file of all trials.
        scratch: folder for the trials' work dirs.

    Returns:
        What the file holds.

    Raises:
        ConfigError: a config is wrong, the configs differ in protocol, data or metric, or the file holds trials of
            another protocol or other data.
    """
    loaded = {path.stem: (path, checked(path, {"runtime.seed": seed})) for path in configs}
    setting, headline = _setting({stem: cfg for stem, (_, cfg) in loaded.items()}, seed)
    words = headline.replace("_", " ")
    content: dict[str, Any] = {"rule": RULE.format(words), "seed": seed, "setting": setting}
    kind = {key: content[key] for key in ("rule", "setting")}
    for stem, (path, _) in loaded.items():
        done = {trial["config_hash"]: trial for trial in _known(out, kind).get(stem, [])}
        tried = []
        for rate in rates:
            cfg = checked(path, {"runtime.seed": seed, "schedule.lr": rate, "runtime.val_interval": 0})
            key = config_hash(identity_of(cfg))
            if key not in done:
                assembled = assemble(cfg, work_dir=scratch / stem / f"lr_{rate:g}", evaluate="val")
                assembled["log_level"] = "WARNING"
                _, metrics = fit(assembled)
                done[key] = {"lr": rate, headline: metrics[f"val/{headline}"], "config_hash": key}
            tried.append(done[key])
            print(f"{stem}  lr {rate:g}  validation {words} {100 * done[key][headline]:.1f} %", flush=True)
        trials = {**_known(out, kind), stem: tried}  # Read again: another process may tune other configs meanwhile.
        trials = dict(sorted(trials.items()))
        content |= {"trials": trials, "chosen": {stem: _best(each, headline) for stem, each in trials.items()}}
        write_text(out, json.dumps(content, indent=2) + "\n")
    return content


def _known(out: Path, kind: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The trials that a file has; ``kind`` is what all of them share."""
    if not out.is_file():
        return {}
    known = json.loads(out.read_text())
    if any(known[key] != value for key, value in kind.items()):
        there = f"{known['setting']['protocol']['name']} on {known['setting']['data']['name']}"
        problem = f"{out} holds trials of {there}, chosen by {known['rule']!r}, which these are not: give another file"
        raise ConfigError([Fault("--out", problem)])
    trials: dict[str, list[dict[str, Any]]] = known["trials"]
    return trials


def _best(trials: Sequence[Mapping[str, Any]], headline: str) -> dict[str, Any]:
    def place(trial: Mapping[str, Any]) -> tuple[float, float]:
        return -trial[headline] if math.isfinite(trial[headline]) else 1.0, trial["lr"]

    best = min(trials, key=place)
    return {"lr": best["lr"], headline: best[headline], "trials": len(trials)}


def _setting(configs: Mapping[str, Any], seed: int) -> tuple[dict[str, Any], str]:
    """Protocol and data that all configs share, and the name of the value that they are chosen by."""
    found = {}
    for stem, cfg in configs.items():
        data = describe(cfg["dataset"], cfg["protocol"], seed)
        setting = {"protocol": data["protocol"], "data": {key: data["data"][key] for key in ("name", "hash")}}
        found[stem] = setting, METRICS.get(HEADS.get(cfg["head"]["type"]).metric).headline
    first = next(iter(found.values()))
    other = [stem for stem, each in found.items() if each != first]
    if other:
        problem = f"{', '.join(other)}: not the protocol, data and metric of {next(iter(found))}; tune them apart"
        raise ConfigError([Fault("protocol", problem)])
    return first
