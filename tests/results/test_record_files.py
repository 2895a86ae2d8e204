"""Files of records: written whole or not at all, and broken ones named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petl_zoo.results.record import RecordError, read_record, read_records, write_record, write_text

MakeRecord = Callable[..., dict[str, Any]]


def test_record_survives_the_round_trip(make_record: MakeRecord, tmp_path: Path) -> None:
    record = make_record(options={"depth": 9, "streams": ["vision", "text"], "note": "\u00e9"})
    write_record(tmp_path / "record.json", record)
    assert read_record(tmp_path / "record.json") == record
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_invalid_record_is_refused_and_nothing_written(make_record: MakeRecord, tmp_path: Path) -> None:
    record = make_record(metrics={"accuracy": float("nan")})
    record["identity"]["seed"] = "one"
    with pytest.raises(RecordError) as caught:
        write_record(tmp_path / "record.json", record)
    assert "metrics.accuracy.value: nan is not allowed" in str(caught.value)
    assert "identity.seed: 'one' is not allowed" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_interrupted_write_leaves_the_old_file_alone(
    make_record: MakeRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException
) -> None:
    path = tmp_path / "record.json"
    write_record(path, make_record(seed=0))
    before = path.read_bytes()

    def interrupt(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, call, interrupt)
    with pytest.raises(type(error)):
        write_record(path, make_record(seed=1))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["record.json"]


def run_writer(path: Path, before: str) -> subprocess.CompletedProcess[str]:
    """Write 100 kB to a path in a process of its own, after some statements that get in its way."""
    code = ("import os, signal\nfrom pathlib import Path\nfrom petl_zoo.results.record import write_text\n"
            f"{before}\nwrite_text(Path({str(path)!r}), 'x' * 100_000)")
    root = Path(__file__).resolve().parents[2]
    return subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)


def test_full_disk_leaves_the_old_file_alone(tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="file size limits are POSIX")
    write_text(tmp_path / "record.json", "old")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))"
    result = run_writer(tmp_path / "record.json", limit)
    assert "OSError" in result.stderr
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"record.json": "old"}


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_killed_writer_leaves_the_old_file_alone(make_record: MakeRecord, tmp_path: Path) -> None:
    write_record(tmp_path / "record.json", make_record())
    kill = "os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)"
    assert run_writer(tmp_path / "record.json", kill).returncode == -9
    assert read_records([tmp_path]) == [make_record()]


@pytest.mark.parametrize(("text", "message"), [
    ('{"schema_version": 1,', "not a readable record"),
    ("[]", "no record of a run"),
    ('{"loss": 1}', "no record of a run"),
    ('{"schema_version": 3}', "schema_version 3 cannot be read, only 1 to 2"),
    ('{"schema_version": 2}', "not a valid record"),
    ('{"schema_version": 1, "metrics": {"accuracy": 1}, "provenance": null}', "not a valid record"),
    ("\udcff", "not a readable record"),
])
def test_broken_record_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RecordError) as caught:
        read_record(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_record_of_version_1_is_read_as_one_of_this(make_record: MakeRecord, tmp_path: Path) -> None:
    expected, old = (make_record(metrics={"accuracy": 0.5, "harmonic_mean": 0.4}) for _ in range(2))
    for record in (expected, old):
        record["metrics"]["harmonic_mean"]["n"] = None
    expected["metrics"]["harmonic_mean"]["of"] = expected["provenance"]["effective_batch"] = None
    old["schema_version"] = 1
    del old["provenance"]["effective_batch"]
    for metric in old["metrics"].values():
        del metric["unit"], metric["of"]
    (tmp_path / "record.json").write_text(json.dumps(old))
    assert read_record(tmp_path / "record.json") == expected


def test_nan_in_a_file_is_refused(make_record: MakeRecord, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(make_record(metrics={"accuracy": float("nan")})))
    with pytest.raises(RecordError, match=r"metrics\.accuracy\.value: nan"):
        read_record(path)


def test_read_records_walks_folders_and_reads_each_file_once(make_record: MakeRecord, tmp_path: Path) -> None:
    records = [make_record(seed=seed) for seed in range(3)]
    for record in records:
        folder = tmp_path / "maple" / f"seed_{record['identity']['seed']}"
        folder.mkdir(parents=True)
        write_record(folder / "record.json", record)
        (folder / "other.json").write_text("{")
    assert read_records([tmp_path, tmp_path / "maple" / "seed_1"]) == records


def test_read_records_names_every_broken_file(make_record: MakeRecord, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "record.json").write_text("{")
    write_record(tmp_path / "b" / "record.json", make_record())
    (tmp_path / "c" / "record.json").write_text('{"schema_version": 7}')
    with pytest.raises(RecordError) as caught:
        read_records([tmp_path])
    assert str(tmp_path / "a" / "record.json") in str(caught.value)
    assert str(tmp_path / "c" / "record.json") in str(caught.value)
    assert str(tmp_path / "b" / "record.json") not in str(caught.value)


def test_read_records_needs_folders_with_records(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no such folder: .*missing"):
        read_records([tmp_path, tmp_path / "missing"])
    with pytest.raises(RecordError, match=r"no record\.json in or below"):
        read_records([tmp_path])
