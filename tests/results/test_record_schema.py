"""Validation: every fault is found, and named with its key path, its value and what is allowed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from petl_zoo.results.record import comparable, record_id, validate_record

MakeRecord = Callable[..., dict[str, Any]]


def set_value(record: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for key in parents:
        record = record[key]
    record[last] = value


def test_valid_record_has_no_faults(make_record: MakeRecord) -> None:
    assert validate_record(make_record()) == []
    assert validate_record(make_record(status="failed")) == []


def test_id_is_the_start_of_the_hash_of_the_sorted_identity() -> None:
    text = '{"a":{"c":[1,null],"d":"x"},"seed":3}'
    expected = hashlib.sha256(text.encode()).hexdigest()[:12]
    assert record_id({"seed": 3, "a": {"d": "x", "c": [1, None]}}) == expected


@pytest.mark.parametrize(("path", "value", "allowed"), [
    ("schema_version", 1, "give 2"),
    ("created_at", "2026-11-22 10:00", "UTC time"),
    ("status", "done", "'success', 'failed' or 'cancelled'"),
    ("identity.seed", -1, "whole number of at least 0"),
    ("identity.seed", True, "whole number of at least 0"),
    ("identity.config_hash", "XYZ", "lower-case hex"),
    ("identity.data.shots", 0, "whole number of at least 1, or null"),
    ("components.tuner.type", " ", "not empty"),
    ("components.tuner.options", [], "object with free keys"),
    ("components.backbone", "CLIP", "object with the keys type, name"),
    ("metrics.accuracy.value", -0.1, "fraction from 0 to 1 (not percent)"),
    ("metrics.accuracy.unit", "percent", "'fraction' or 'rank'"),
    ("metrics.accuracy.value", None, "fraction from 0 to 1"),
    ("metrics.accuracy.higher_is_better", 1, "true or false"),
    ("metrics.accuracy.n", 0, "at least 1"),
    ("metrics.accuracy.of", "", "not empty, or null"),
    ("cost.memory_bytes.peak_allocated", -1, "at least 0, or null"),
    ("cost.parameters.by_role.prompt", 1.5, "whole number"),
    ("provenance.world_size", 0, "at least 1"),
    ("provenance.effective_batch", 0, "at least 1, or null"),
    ("provenance.versions.mmengine", None, "string"),
])
def test_fault_names_key_value_and_what_is_allowed(
    make_record: MakeRecord, path: str, value: Any, allowed: str
) -> None:
    record = make_record()
    set_value(record, path, value)
    (fault,) = validate_record(record)
    assert fault.startswith(f"{path}: {value!r} ")
    assert allowed in fault


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("path", ["metrics.accuracy.value", "cost.time_s.train", "selection.learning_rate",
                                  "cost.parameters.share", "components.tuner.options.scale"])
def test_numbers_that_are_not_finite_are_faults(make_record: MakeRecord, path: str, bad: float) -> None:
    record = make_record()
    set_value(record, path, bad)
    (fault,) = validate_record(record)
    assert fault.startswith(f"{path}: {bad!r} is not allowed")


def test_nan_deep_in_an_option_is_a_fault(make_record: MakeRecord) -> None:
    record = make_record(options={"layers": [1, 2]})
    record["components"]["tuner"]["options"]["layers"] = [1, {"scale": float("nan")}]
    (fault,) = validate_record(record)
    assert fault.startswith("components.tuner.options.layers: ")


def test_all_faults_come_at_once(make_record: MakeRecord) -> None:
    record = make_record()
    record["cost"]["memroy_bytes"] = record["cost"].pop("memory_bytes")
    record["identity"]["seed"] = None
    record["provenance"][3] = "x"
    faults = validate_record(record)
    unknown = "cost.memroy_bytes: unknown key (did you mean 'memory_bytes'?)"
    assert any(fault.startswith(unknown) for fault in faults)
    assert "cost.memory_bytes: missing; give an object" in faults
    assert any(fault.startswith("identity.seed: None") for fault in faults)
    assert "provenance: the key 3 is not allowed; give a string" in faults
    assert len(faults) == 4


def test_record_that_is_no_object_is_one_fault() -> None:
    (fault,) = validate_record([1])  # type: ignore[arg-type]
    assert fault.startswith("record: [1] is not allowed; give an object with the keys schema_version, id")


@pytest.mark.parametrize(("path", "value", "expected"), [
    ("id", "0" * 12, "id: '000000000000' does not belong to this identity"),
    ("created_at", "2026-02-30T10:00:00Z", "created_at: '2026-02-30T10:00:00Z' is no date"),
    ("metrics", {}, "status: 'success' needs at least one metric"),
    ("error", "late", "status: 'success' needs at least one metric and a null error"),
    ("cost.parameters.total", 9_999, "cost.parameters.trainable: 10000 is not allowed; give at most total"),
    ("cost.parameters.share", 1.0, "cost.parameters.share: 1.0 is not allowed"),
    ("cost.parameters.by_stream", {"text": 1}, "cost.parameters.by_stream: the sum 1 is not allowed"),
    ("cost.parameters.by_role", {}, "cost.parameters.by_role: the sum 0 is not allowed"),
    ("metrics.accuracy.value", 71.5,
     "metrics.accuracy.value: 71.5 is not allowed; give a fraction from 0 to 1 (not percent)"),
    ("cost.flops.convention", None, "cost.flops.convention: null is not allowed beside a count"),
])
def test_values_must_agree_with_each_other(
    make_record: MakeRecord, path: str, value: Any, expected: str
) -> None:
    record = make_record()
    set_value(record, path, value)
    (fault,) = validate_record(record)
    assert fault.startswith(expected)


def test_a_rank_is_at_least_one_and_no_fraction(make_record: MakeRecord) -> None:
    assert validate_record(make_record(metrics={"median_rank": 17.5}, ranks=("median_rank",))) == []
    (fault,) = validate_record(make_record(metrics={"median_rank": 0.5}, ranks=("median_rank",)))
    assert fault == "metrics.median_rank.value: 0.5 is not allowed; give a rank of at least 1"


def test_run_without_success_must_say_why(make_record: MakeRecord) -> None:
    record = make_record(status="cancelled")
    record["error"] = None
    assert validate_record(record) == ["error: null is not allowed with status 'cancelled'; give the reason"]


def test_comparable_ignores_clock_and_machine_but_no_result(make_record: MakeRecord) -> None:
    first, second = make_record(), make_record(day=9, device="NVIDIA H100", step=0.5, peak=7)
    second["components"]["backbone"]["checkpoint"] = "elsewhere.pt"
    second["cost"]["latency_s"]["adapted"] = second["cost"]["time_s"]["total"] = 99.0
    second["provenance"]["commit"] = None
    assert comparable(first) == comparable(second)
    for path, value in [("metrics.accuracy.value", 0.5000001), ("selection.learning_rate", 0.02),
                        ("cost.parameters.trainable", 1), ("components.backbone.sha256", "cd" * 32),
                        ("identity.seed", 4), ("cost.flops.forward", 9)]:
        changed = make_record()
        set_value(changed, path, value)
        assert comparable(changed) != comparable(first), path
