"""The schema (version 2) of one run's record: every key and what is allowed there."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

__all__ = ["SCHEMA", "SCHEMA_VERSION", "Each", "Field", "shape_faults"]

SCHEMA_VERSION = 2


@dataclass(frozen=True)
class Field:
    """Describe one value of a record: which values are allowed, in words and as a test."""

    allowed: str
    accepts: Callable[[Any], bool]

    def __or__(self, other: Field) -> Field:
        allowed = f"{self.allowed}, or {other.allowed}"
        return Field(allowed, lambda value: self.accepts(value) or other.accepts(value))


@dataclass(frozen=True)
class Each:
    """Describe an object with free keys whose values all have one schema."""

    item: Any  # Field, Each or a dict of them: mypy has no finite type for a recursive schema


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_json, value))
    return value is None or isinstance(value, str | bool) or _is_number(value)


def _matching(pattern: str, allowed: str) -> Field:
    return Field(allowed, lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None)


NULL = Field("null", lambda value: value is None)
FLAG = Field("true or false", lambda value: isinstance(value, bool))
TEXT = _matching(r"(?s).*\S.*", "a string that is not empty")
COUNT = Field("a whole number of at least 0", lambda value: _is_whole(value) and value >= 0)
POSITIVE = Field("a whole number of at least 1", lambda value: _is_whole(value) and value >= 1)
AMOUNT = Field("a finite number of at least 0", lambda value: _is_number(value) and value >= 0)
FRACTION = Field("a fraction from 0 to 1 (not percent)", lambda value: _is_number(value) and 0 <= value <= 1)
RANK = Field("a rank of at least 1", lambda value: _is_number(value) and value >= 1)
UNITS = {"fraction": FRACTION, "rank": RANK}  # what a metric's value may be
JSON = Field("a JSON value whose numbers are finite and whose keys are strings", _is_json)
HASH = _matching(r"[0-9a-f]{8,64}", "a hash of 8 to 64 lower-case hex digits")
TIME = _matching(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?(Z|\+00:00)",
                 "a UTC time as datetime.now(timezone.utc).isoformat() writes it")

SCHEMA: dict[str, Any] = {  # values: Field, Each or a dict of them
    "schema_version": Field(f"{SCHEMA_VERSION}", lambda value: _is_whole(value) and value == SCHEMA_VERSION),
    "id": _matching(r"[0-9a-f]{12}", "the 12 hex digits of record_id(identity)"),
    "created_at": TIME,
    "status": Field("'success', 'failed' or 'cancelled'", lambda v: v in ("success", "failed", "cancelled")),
    "error": TEXT | NULL,  # why a run that is no success ended
    "identity": {
        # of the assembled config without seed, paths and runtime: all seeds of a method share it
        "config_hash": HASH,
        "protocol": {"name": TEXT, "version": POSITIVE, "hash": HASH},
        "seed": COUNT,
        # hash: of the data set and its split, not of the shots one seed draws
        "data": {"name": TEXT, "hash": HASH, "num_train": COUNT, "num_test": COUNT, "shots": POSITIVE | NULL},
    },
    "components": {
        # parameters: of the bare backbone, without tuner and head
        "backbone": {"type": TEXT, "name": TEXT, "checkpoint": TEXT | NULL, "sha256": HASH | NULL,
                     "parameters": POSITIVE},
        "tuner": {"type": TEXT, "options": Each(JSON)},
        "head": {"type": TEXT},
    },
    # in the protocol's order, the headline first; n, of: what the value is taken over, as 1000 images
    # A metric that is computed from others, such as a harmonic mean, has no samples of its own.
    "metrics": Each({"value": FRACTION | RANK,
                     "unit": Field(" or ".join(map(repr, UNITS)), lambda value: value in list(UNITS)),
                     "higher_is_better": FLAG, "n": POSITIVE | NULL, "of": TEXT | NULL}),
    # how the learning rate was chosen; trials: the file that lists what was tried
    "selection": {"learning_rate": AMOUNT | NULL, "rule": TEXT | NULL, "trials": TEXT | NULL},
    "cost": {
        # share: trainable / components.backbone.parameters; by_stream and by_role split trainable
        "parameters": {"total": POSITIVE, "trainable": COUNT, "share": AMOUNT, "by_stream": Each(COUNT),
                       "by_role": Each(COUNT), "added_at_inference": COUNT | NULL},
        "memory_bytes": {"peak_allocated": COUNT | NULL, "peak_reserved": COUNT | NULL},  # accelerator only
        "time_s": {"total": AMOUNT | NULL, "train": AMOUNT | NULL, "eval": AMOUNT | NULL,
                   "step_median": AMOUNT | NULL, "step_p95": AMOUNT | NULL},
        "flops": {"forward": COUNT | NULL, "convention": TEXT | NULL},  # such as '2 per multiply-add'
        # one evaluation batch: with the tuner, merged into the backbone, and the bare backbone
        "latency_s": {"adapted": AMOUNT | NULL, "merged": AMOUNT | NULL, "bare": AMOUNT | NULL,
                      "batch_size": POSITIVE | NULL},
        "checkpoint_bytes": COUNT | NULL,
    },
    "provenance": {"commit": HASH | NULL, "dirty": FLAG | NULL, "versions": Each(TEXT), "python": TEXT,
                   "torch": TEXT, "device": TEXT, "precision": TEXT, "world_size": POSITIVE,
                   # samples between two steps of the optimizer: batch size x processes x accumulated batches;
                   # null where the run trained nothing, and where it was not noted (version 1)
                   "effective_batch": POSITIVE | NULL, "command": TEXT},
}


def shape_faults(value: Any, schema: Any = SCHEMA, path: str = "") -> Iterator[str]:
    """Yield each place where a value leaves the schema: key path, value, what is allowed."""
    where = path or "record"
    if isinstance(schema, Field):
        if not schema.accepts(value):
            yield f"{where}: {reprlib.repr(value)} is not allowed; give {schema.allowed}"
    elif not isinstance(value, Mapping):
        keys = "free keys" if isinstance(schema, Each) else f"the keys {', '.join(schema)}"
        yield f"{where}: {reprlib.repr(value)} is not allowed; give an object with {keys}"
    else:
        for key in value:
            if not isinstance(key, str):
                yield f"{where}: the key {key!r} is not allowed; give a string"
            elif isinstance(schema, dict) and key not in schema:
                close = get_close_matches(key, schema, n=1)
                hint = f" (did you mean {close[0]!r}?)" if close else ""
                yield f"{_join(path, key)}: unknown key{hint}; allowed here: {', '.join(schema)}"
            else:
                yield from shape_faults(value[key], _item(schema, key), _join(path, key))
        for key in () if isinstance(schema, Each) else schema:
            if key not in value:
                allowed = schema[key].allowed if isinstance(schema[key], Field) else "an object"
                yield f"{_join(path, key)}: missing; give {allowed}"


def _item(schema: Any, key: str) -> Any:
    return schema.item if isinstance(schema, Each) else schema[key]


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
