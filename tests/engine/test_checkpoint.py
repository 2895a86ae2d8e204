"""A checkpoint reaches the disk whole or not at all."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from petl_zoo.engine import checkpoint
from petl_zoo.engine.faults import RunError

ROOT = Path(__file__).resolve().parents[2]


def content(value: float) -> dict[str, Any]:
    return {"meta": {"format": checkpoint.FORMAT, "epoch": 1}, "state_dict": {"tuner.text": torch.full((4,), value)}}


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "epoch_1.pth"
    checkpoint.write_checkpoint(path, content(1.0))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"No space left on device.*what was there before is intact"):
        checkpoint.write_checkpoint(path, content(2.0))
    assert torch.equal(checkpoint.read_checkpoint(path)["state_dict"]["tuner.text"], torch.ones(4))
    assert [file.name for file in tmp_path.iterdir()] == ["epoch_1.pth"]


def test_a_kill_while_writing_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "epoch_1.pth"
    checkpoint.write_checkpoint(path, content(1.0))
    program = (
        "import os, signal, sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "from petl_zoo.engine import checkpoint\n"
        "os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)\n"
        "checkpoint.write_checkpoint(Path(sys.argv[1]), {'meta': {}, 'state_dict': {}})\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path), str(ROOT)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert checkpoint.newest_checkpoint(tmp_path) == path
    assert torch.equal(checkpoint.read_checkpoint(path)["state_dict"]["tuner.text"], torch.ones(4))


def test_the_newest_readable_checkpoint_is_found(tmp_path: Path) -> None:
    for epoch in (2, 9, 10):
        checkpoint.write_checkpoint(tmp_path / f"epoch_{epoch}.pth", content(epoch))
    broken = tmp_path / "epoch_10.pth"
    broken.write_bytes(broken.read_bytes()[:100])
    assert checkpoint.newest_checkpoint(tmp_path) == tmp_path / "epoch_9.pth"


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "there is no file"),
        (lambda path: path.write_bytes(b""), "broken or no checkpoint"),
        (lambda path: path.write_bytes(b"no zip file at all" * 50), "broken or no checkpoint"),
        (lambda path: torch.save({"visual.proj": torch.ones(2)}, path), "not a checkpoint of a tuner"),
    ],
)
def test_what_is_no_checkpoint_is_told(tmp_path: Path, write: Any, message: str) -> None:
    path = tmp_path / "epoch_1.pth"
    write(path)
    with pytest.raises(RunError, match=message):
        checkpoint.read_checkpoint(path)
