"""The record of one run: its checks and its files.

A record says what was run (identity, components, selection), what came out (metrics, each with its unit), what
it cost and where it ran (provenance). Its shape is always the whole of `schema.SCHEMA`: what was not measured is
null. Records are never edited; one of an earlier version is read as one of this.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from petl_zoo.results.schema import SCHEMA_VERSION, UNITS, shape_faults

__all__ = ["RECORD_NAME", "SCHEMA_VERSION", "Record", "RecordError", "canonical_json", "comparable",
           "created_at", "read_record", "read_records", "record_id", "validate_record", "write_record",
           "write_text"]

RECORD_NAME = "record.json"
Record = dict[str, Any]  # parsed JSON; SCHEMA, not the type checker, holds its shape


class RecordError(ValueError):
    """Report records that are missing, broken, of another version or against the schema."""


def canonical_json(value: object) -> str:
    """Write a value as the one JSON text that equal values share."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def record_id(identity: Mapping[str, Any]) -> str:
    """Return the id of a run: the first 12 hex digits of the SHA-256 of its identity as canonical JSON."""
    return hashlib.sha256(canonical_json(dict(identity)).encode()).hexdigest()[:12]


def created_at(record: Record) -> datetime:
    """Return when a record was made, as an aware UTC time."""
    return datetime.fromisoformat(record["created_at"].replace("Z", "+00:00"))


def validate_record(record: Mapping[str, Any]) -> list[str]:
    """Return every fault of a record: key path, value and what is allowed. A valid one has none."""
    faults = list(shape_faults(record))
    return faults or list(_sense_faults(record))  # sums and ids can be checked only where the shape is right


def _sense_faults(record: Mapping[str, Any]) -> Iterator[str]:
    parameters, flops = record["cost"]["parameters"], record["cost"]["flops"]
    trainable, backbone = parameters["trainable"], record["components"]["backbone"]["parameters"]
    try:
        created_at(dict(record))
    except ValueError as error:
        yield f"created_at: {record['created_at']!r} is no date ({error}); give one that the calendar has"
    if record["id"] != record_id(record["identity"]):
        yield f"id: {record['id']!r} does not belong to this identity; give {record_id(record['identity'])!r}"
    if record["status"] == "success" and (record["error"] is not None or not record["metrics"]):
        yield "status: 'success' needs at least one metric and a null error; give them, or 'failed'"
    if record["status"] != "success" and record["error"] is None:
        yield f"error: null is not allowed with status {record['status']!r}; give the reason"
    if trainable > parameters["total"]:
        yield (f"cost.parameters.trainable: {trainable} is not allowed; "
               f"give at most total ({parameters['total']})")
    if not math.isclose(parameters["share"], trainable / backbone, rel_tol=1e-6):
        yield (f"cost.parameters.share: {parameters['share']} is not allowed; "
               f"give trainable / components.backbone.parameters ({trainable / backbone})")
    for name, metric in record["metrics"].items():
        if not UNITS[metric["unit"]].accepts(metric["value"]):
            yield (f"metrics.{name}.value: {metric['value']} is not allowed; "
                   f"give {UNITS[metric['unit']].allowed}")
    for split in ("by_stream", "by_role"):
        if sum(parameters[split].values()) != trainable:
            yield (f"cost.parameters.{split}: the sum {sum(parameters[split].values())} is not allowed; "
                   f"give parts that sum to trainable ({trainable})")
    if flops["forward"] is not None and flops["convention"] is None:
        yield "cost.flops.convention: null is not allowed beside a count; say what one multiply-add counts"


def comparable(record: Record) -> Record:
    """Return the part of a record that two runs of one config and seed must have in common.

    Left out is what depends on the clock, the machine or the folder: dates, provenance, times, memory, the
    path of the backbone's checkpoint (its SHA-256 stays) and the size of the tuner's (which may hold paths).
    """
    backbone = {**record["components"]["backbone"]}
    del backbone["checkpoint"]
    whole = ("schema_version", "id", "status", "identity", "metrics", "selection")
    return {**{key: record[key] for key in whole},
            "components": {**record["components"], "backbone": backbone},
            "cost": {key: record["cost"][key] for key in ("parameters", "flops")}}


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: a reader sees the old text or the new, a failure leaves the old.

    Raises:
        OSError: the folder is missing or cannot be written, or the disk is full.
    """
    # In the same folder, because a rename is atomic within one file system only.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with draft.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def write_record(path: Path, record: Record) -> None:
    """Check a record and write it atomically, as indented JSON.

    Raises:
        RecordError: the record is against the schema (NaN and infinity are); nothing was written.
        OSError: see `write_text`.
    """
    if faults := validate_record(record):
        raise RecordError(f"{path}: the record was not written:\n  " + "\n  ".join(faults))
    write_text(path, json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_record(path: Path) -> Record:
    """Read and check one record.

    Raises:
        RecordError: the file cannot be read, is no JSON, has another version or is against the schema.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: not a readable record ({error}); mend it or move it away") from error
    if not isinstance(record, dict) or "schema_version" not in record:
        raise RecordError(f"{path}: no record of a run (it has no schema_version); move it away")
    if record["schema_version"] == 1:
        record = _from_version_1(record)
    if record["schema_version"] != SCHEMA_VERSION:
        raise RecordError(f"{path}: schema_version {record['schema_version']!r} cannot be read, only "
                          f"1 to {SCHEMA_VERSION}; use the petl_zoo that wrote it, or move it away")
    if faults := validate_record(record):
        raise RecordError(f"{path}: not a valid record:\n  " + "\n  ".join(faults))
    return record


def _from_version_1(record: Record) -> Record:
    """Write a record of version 1 as one of version 2, where metrics had no unit: all were fractions of images."""
    record = {**record, "schema_version": 2}
    metrics, provenance = record.get("metrics"), record.get("provenance")
    if isinstance(metrics, dict) and all(isinstance(metric, dict) for metric in metrics.values()):
        record["metrics"] = {name: {**metric, "unit": "fraction", "of": "images" if metric.get("n") else None}
                             for name, metric in metrics.items()}
    if isinstance(provenance, dict):
        record["provenance"] = {**provenance, "effective_batch": None}
    return record


def read_records(folders: Iterable[Path]) -> list[Record]:
    """Read every `record.json` in and below some folders, each file once, in the order of their paths.

    Raises:
        RecordError: a folder is missing, none holds a record, or records are broken (all of them are named).
    """
    folders = list(folders)
    if missing := [str(folder) for folder in folders if not folder.is_dir()]:
        raise RecordError(f"no such folder: {', '.join(missing)}; "
                          f"give folders in or below which runs wrote {RECORD_NAME}")
    found = {path.resolve(): path for folder in folders for path in folder.rglob(RECORD_NAME)}
    paths = sorted(found.values())
    if not paths:
        raise RecordError(f"no {RECORD_NAME} in or below {', '.join(map(str, folders))}; "
                          "a run writes one when it ends: give its work dir or a folder above it")
    records, faults = [], []
    for path in paths:
        try:
            records.append(read_record(path))
        except RecordError as error:
            faults.append(str(error))
    if faults:
        raise RecordError("\n".join(faults))
    return records
