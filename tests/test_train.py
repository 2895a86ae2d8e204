"""The tools as people call them: from a bare clone, with exit codes and messages."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    "backbone.checkpoint=None", "backbone.tokenizer=zoo:clip_tiny", "backbone.vision_width=32",
    "backbone.vision_layers=2", "backbone.vision_heads=2", "backbone.text_width=32", "backbone.text_layers=2",
    "backbone.text_heads=2", "backbone.embed_dim=32", "tuner.depth=2", "protocol.shots=1", "dataset.classes=subgroups",
    "schedule.epochs=1", "schedule.batch_size=8",
]  # fmt: skip
CONFIG = "configs/glyphs/clip_maple.py"


def tool(name: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"tools/{name}.py", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_training_ends_in_a_table_and_a_record(tmp_path: Path) -> None:
    done = tool("train", CONFIG, "--work-dir", str(tmp_path / "run"), "--cfg-options", *SMALL)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["status"] == "success"
    assert "harmonic mean" in done.stdout
    assert f"{record['cost']['parameters']['trainable']:,}" in done.stdout
    assert "Traceback" not in done.stderr
    assert len((done.stdout + done.stderr).splitlines()) < 60


def test_all_faults_are_told_without_a_traceback(tmp_path: Path) -> None:
    options = ["--work-dir", str(tmp_path / "run"), "--cfg-options", *SMALL, "tuner.dpeth=3", "schedule.lrr=1"]
    done = tool("train", CONFIG, *options)
    assert done.returncode == 2
    assert "tuner.dpeth" in done.stderr
    assert "schedule.lrr" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_assembled_config_is_printed_and_nothing_run(tmp_path: Path) -> None:
    done = tool("train", CONFIG, "--print-config", "--work-dir", str(tmp_path / "run"), "--cfg-options", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "VLModel" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_says_how_to_go_on(tmp_path: Path) -> None:
    command = [sys.executable, "tools/train.py", CONFIG, "--work-dir", str(tmp_path / "run"), "--cfg-options", *SMALL]
    running = subprocess.Popen(
        [*command, "schedule.epochs=1000"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts its background jobs with interrupts ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    waited = time.monotonic()
    while not list(tmp_path.glob("run/epoch_*.pth")) and time.monotonic() - waited < 120:
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 130, told
    assert "--resume" in told
    assert "Traceback" not in told


def test_counting_parameters_prints_one_line_of_json() -> None:
    done = tool("params", "--backbone", "clip_vit_b16", "--tuner", "maple", "--cfg-options", "tuner.depth=3")
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert len(done.stdout.splitlines()) == 1
    assert counts["trainable"] == 1_185_024
    assert counts["total"] == 149_620_737 + 1_185_024
    assert counts["head"] == "retrieval"
