"""Learning rates are chosen on validation data, and no trial is run twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from petl_zoo.engine import tuning
from petl_zoo.engine.faults import ConfigError
from petl_zoo.engine.merging import load

from .conftest import CONFIGS, RETRIEVAL, SMALL

RATES = [0.001, 0.1]


def small(folder: Path, tuner: str, **options: object) -> Path:
    """A config file of a small run."""
    path = folder / f"small_{tuner}.py"
    load(CONFIGS / "glyphs" / f"clip_{tuner}.py", {**SMALL, "schedule.epochs": 1, **options}).dump(str(path))
    return path


def test_the_best_rate_on_validation_data_is_noted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, out = small(tmp_path, "coop"), tmp_path / "trials.json"
    found = tuning.tune([config], RATES, seed=0, out=out, scratch=tmp_path / "scratch")
    assert json.loads(out.read_text()) == found
    trials = found["trials"]["small_coop"]
    assert [trial["lr"] for trial in trials] == RATES
    best = found["chosen"]["small_coop"]
    assert best["accuracy"] == max(trial["accuracy"] for trial in trials)
    assert best["trials"] == len(RATES)
    assert not list((tmp_path / "scratch").rglob("record.json"))  # Test data were not looked at.

    def again(assembled: object) -> None:
        raise AssertionError("the trial was run already")

    monkeypatch.setattr(tuning, "fit", again)
    assert tuning.tune([config], RATES, seed=0, out=out, scratch=tmp_path / "scratch") == found
    with pytest.raises(AssertionError, match="already"):
        tuning.tune([config], [0.5], seed=0, out=out, scratch=tmp_path / "scratch")


def test_configs_of_different_data_are_not_tuned_together(tmp_path: Path) -> None:
    configs = [small(tmp_path, "coop"), small(tmp_path, "bitfit", **{"dataset.classes": "concepts"})]
    with pytest.raises(ConfigError, match="small_bitfit: not the protocol, data and metric of small_coop"):
        tuning.tune(configs, RATES, seed=0, out=tmp_path / "trials.json", scratch=tmp_path / "scratch")
    assert not (tmp_path / "trials.json").exists()


def test_of_equal_rates_the_smallest_is_best() -> None:
    trials = [{"lr": 0.1, "accuracy": 0.5}, {"lr": 0.01, "accuracy": 0.5}, {"lr": 1.0, "accuracy": float("nan")}]
    assert tuning._best(trials, "accuracy")["lr"] == 0.01


def test_trials_of_another_setting_are_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "trials.json"
    out.write_text((CONFIGS / "glyphs" / "trials.json").read_text())
    before = out.read_bytes()
    with pytest.raises(ConfigError, match=r"--out: .* holds trials of base_to_new on Glyphs/concepts/flat, chosen by"):
        tuning.tune([small(tmp_path, "coop")], RATES, seed=0, out=out, scratch=tmp_path / "scratch")
    assert out.read_bytes() == before


def test_retrieval_is_chosen_by_mean_recall(tmp_path: Path) -> None:
    config, out = tmp_path / "toy.py", tmp_path / "trials.json"
    load(CONFIGS / "glyphs" / "clip_maple.py", {**RETRIEVAL, "schedule.epochs": 1}).dump(str(config))
    found = tuning.tune([config], [0.01], seed=0, out=out, scratch=tmp_path / "scratch")
    assert found["rule"].startswith("highest validation mean recall after the last epoch")
    (trial,) = found["trials"]["toy"]
    assert list(trial) == ["lr", "mean_recall", "config_hash"]
    assert found["chosen"]["toy"] == {"lr": 0.01, "mean_recall": trial["mean_recall"], "trials": 1}
