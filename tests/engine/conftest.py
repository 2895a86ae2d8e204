"""A run that takes seconds: real data and protocol, a backbone of two narrow layers, one shot a class."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petl_zoo.engine import launch

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

SMALL = {
    "backbone.checkpoint": None,
    "backbone.tokenizer": "zoo:clip_tiny",
    "backbone.vision_width": 32,
    "backbone.vision_layers": 2,
    "backbone.vision_heads": 2,
    "backbone.text_width": 32,
    "backbone.text_layers": 2,
    "backbone.text_heads": 2,
    "backbone.embed_dim": 32,
    "dataset.classes": "subgroups",
    "protocol.shots": 1,
    "schedule.epochs": 2,
    "schedule.batch_size": 8,
    "schedule.lr": 0.05,
    "runtime.visualizers": [],
}
MAPLE = {**SMALL, "tuner.depth": 2}
RETRIEVAL = {
    **{key: value for key, value in MAPLE.items() if not key.startswith(("dataset.", "protocol."))},
    "custom_imports": {"imports": ["tests.engine.toys"]},
    "head.type": "RetrievalHead",
    "dataset.type": "ToyCaptions",
    "protocol.type": "Retrieval",
    "runtime.eval_batch_size": 3,
}


def arguments(config: str | Path, work_dir: Path | None, options: dict[str, Any], **more: Any) -> argparse.Namespace:
    """What tools/train.py and tools/test.py hand to the engine."""
    path = config if isinstance(config, Path) else CONFIGS / "glyphs" / f"{config}.py"
    defaults = {"seed": None, "amp": False, "launcher": "none", "print_config": False, "resume": False}
    return argparse.Namespace(config=path, work_dir=work_dir, cfg_options=options, **{**defaults, **more})


@pytest.fixture(scope="session")
def maple_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Work dir and record of one whole run."""
    work_dir = tmp_path_factory.mktemp("maple") / "run"
    record = launch.train(arguments("clip_maple", work_dir, MAPLE))
    assert record is not None
    return work_dir, record


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., Any]:
    """Train into a fresh work dir, or a given one."""

    def run(
        config: str | Path = "clip_maple",
        options: dict[str, Any] = MAPLE,
        work_dir: Path | None = None,
        **more: Any,
    ) -> Any:
        return launch.train(arguments(config, work_dir or tmp_path / "run", options, **more))

    return run
