"""tools/leaderboard.py as a user calls it: from any folder, from a bare clone, with good and bad input."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petl_zoo.results.record import write_record
from tools import leaderboard as tool

TOOL = Path(__file__).resolve().parents[2] / "tools" / "leaderboard.py"
MakeRecord = Callable[..., dict[str, Any]]


@pytest.fixture
def work_dirs(make_record: MakeRecord, tmp_path: Path) -> Path:
    for tuner, accuracy in (("MaPLe", 0.7), ("CoOp", 0.5)):
        for seed in range(2):
            folder = tmp_path / "work_dirs" / tuner / str(seed)
            folder.mkdir(parents=True)
            record = make_record(tuner=tuner, seed=seed, metrics={"accuracy": accuracy})
            write_record(folder / "record.json", record)
    return tmp_path / "work_dirs"


def test_tool_prints_and_writes_the_board(work_dirs: Path, tmp_path: Path) -> None:
    # -I keeps PYTHONPATH and the current folder off the path, so that the tool has to find petl_zoo itself.
    command = [sys.executable, "-I", str(TOOL), "work_dirs", "--out", "made/board"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.index("MaPLe") < result.stdout.index("CoOp")
    assert "70.00 ±" in result.stdout
    out = tmp_path / "made" / "board"
    assert sorted(path.name for path in out.iterdir()) == ["leaderboard.csv", "leaderboard.md", "records.csv"]
    page = (out / "leaderboard.md").read_text(encoding="utf-8")
    assert "| MaPLe | 2 | 10,000 | 1 | **70.00 ± 0.00** |" in page


@pytest.mark.parametrize(("args", "message"), [
    (["nowhere", "--out", "made"], "no such folder: nowhere"),
    (["empty", "--out", "made"], "no record.json in or below empty"),
    (["broken", "--out", "made"], "record.json: not a readable record"),
    (["work_dirs", "--out", "made", "--sort", "acuracy"], "did you mean 'accuracy'?"),
    (["work_dirs", "--out", "made", "--metrics", "accuracy,f1"], "no record has 'f1'"),
    (["work_dirs", "--out", "file"], "file"),
    (["work_dirs"], "--out"),
])
def test_bad_input_gets_one_clear_error_and_leaves_nothing(
    work_dirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    args: list[str], message: str,
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "record.json").write_text("{")
    (tmp_path / "file").write_text("kept")
    try:
        status = tool.main(args)
    except SystemExit as stop:  # how argparse ends
        status = stop.code
    assert status == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert (tmp_path / "file").read_text() == "kept"
    assert not (tmp_path / "made").exists()


def test_tool_never_imports_torch() -> None:
    code = (f"import sys; sys.path.insert(0, {str(TOOL.parent)!r}); import leaderboard; "
            "assert leaderboard.main; sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
