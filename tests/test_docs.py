"""The documentation's code runs as it stands."""

from __future__ import annotations

import importlib
import itertools
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from petl_zoo.engine.launch import checked
from registry import TUNERS
from tests.conftest import MAKERS
from tests.tuners import test_contract

ROOT = Path(__file__).resolve().parents[1]


def code_blocks(page: str) -> list[str]:
    """The Python blocks of a page, in order."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), flags=re.DOTALL)


@pytest.fixture
def prefix_tuning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The tutorial's two files, the tuner in a folder of its own as a third party would have it."""
    tuner, config = code_blocks("add_a_tuner.md")
    (tmp_path / "my_tuners.py").write_text(tuner)
    shutil.copytree(ROOT / "configs" / "_base_", tmp_path / "configs" / "_base_")
    shutil.copytree(ROOT / "configs" / "glyphs", tmp_path / "configs" / "glyphs")
    path = tmp_path / "configs" / "glyphs" / "clip_prefix.py"
    path.write_text(config)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield path
    TUNERS.module_dict.pop("PrefixTuning", None)
    sys.modules.pop("my_tuners", None)


def test_the_tutorials_tuner_is_configured_and_keeps_the_contract(
    prefix_tuning: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = checked(prefix_tuning, {})
    assert cfg["tuner"]["type"] == "PrefixTuning"
    importlib.import_module("my_tuners")
    options = {"type": "PrefixTuning", "length": 2, "depth": 3}
    for backbone, head in itertools.product(MAKERS, test_contract.BATCHES):
        cell = test_contract.Cell(options, backbone, head)
        test_contract.test_only_declared_parameters_get_gradients_and_change(cell)
        test_contract.test_count_is_the_closed_form(cell)
        test_contract.test_state_saved_alone_and_loaded_gives_equal_outputs(cell)
        test_contract.test_a_step_lowers_the_loss(cell)
        test_contract.test_fast_path_equals_the_plain_one(cell)
    test_contract.test_no_tensor_is_left_on_the_wrong_device(cell, monkeypatch)
