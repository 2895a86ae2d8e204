"""From records to boards: group runs that may be compared, average them over seeds, find the best.

A board holds runs of one protocol (name, version and hash), one data set and one backbone. A method is a
tuner under one config hash, so that runs of different settings are never averaged.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from petl_zoo.results.record import Record, RecordError, canonical_json, created_at
from petl_zoo.results.statistics import Summary, summarize

__all__ = ["Board", "Row", "Score", "build_boards", "environment"]


@dataclass(frozen=True)
class Score:
    """Hold one metric of one method.

    Attributes:
        summary: Mean and interval over the seeds, in the metric's unit.
        is_best: Whether the method belongs to the set that the seeds cannot tell from the best.
    """

    summary: Summary
    is_best: bool


@dataclass(frozen=True)
class Row:
    """Hold one method of a board.

    Attributes:
        method: Name that is unique in the board.
        records: The runs behind it, one a seed, in the order of the seeds.
        scores: By metric; a metric that no run has is left out.
        trainable: Number of trained parameters.
        share: trainable as a fraction of the bare backbone's parameters.
        peak_memory_bytes: Largest peak of the runs; None where it was not measured (CPU).
        step_time_s: Median over the runs of the median training step; None where nothing was trained.
    """

    method: str
    records: tuple[Record, ...]
    scores: dict[str, Score]
    trainable: int
    share: float
    peak_memory_bytes: int | None
    step_time_s: float | None


@dataclass(frozen=True)
class Board:
    """Hold what may stand in one table.

    Attributes:
        protocol, data, backbone: As in the records (`schema.SCHEMA`).
        metrics: Names of the columns, in order.
        units: The unit of each of these, `fraction` or `rank`.
        sort: The metric the rows are sorted by; None where no run has a metric.
        rows: Methods, best first.
        failed: Name of the method and record of each run that ended without success and was not mended since.
        superseded: Number of runs left out because a newer one has the same id.
    """

    protocol: dict[str, Any]
    data: dict[str, Any]
    backbone: dict[str, Any]
    metrics: tuple[str, ...]
    units: dict[str, str]
    sort: str | None
    rows: tuple[Row, ...]
    failed: tuple[tuple[str, Record], ...]
    superseded: int

    @property
    def records(self) -> tuple[Record, ...]:
        """Return every run that counts in the table."""
        return tuple(record for row in self.rows for record in row.records)

    @property
    def environments(self) -> tuple[str, ...]:
        """Return on what the runs were made: times and memory compare only where it is one."""
        return tuple(sorted({environment(record) for record in self.records}))


def environment(record: Record) -> str:
    """Say on what a run was made, as far as it changes times and memory."""
    where = record["provenance"]
    processes = "process" if where["world_size"] == 1 else "processes"
    return f"{where['device']}, {where['precision']}, {where['world_size']} {processes}"


def build_boards(
    records: Iterable[Record], *, metrics: Sequence[str] = (), sort: str | None = None
) -> list[Board]:
    """Build one board for each protocol, data set and backbone.

    Args:
        records: Valid records, in any order; of several with one id the newest success counts.
        metrics: Columns to show, in order; all of them, in the order of the records, when empty.
        sort: Metric to sort by, a column or not; the first column when None.

    Returns:
        Boards sorted by protocol, data and backbone. Equal sets of records give equal boards.

    Raises:
        RecordError: no record has one of the metrics, or two records of a board contradict each other.
    """
    unique = {canonical_json(record): record for record in records}  # a copied folder is no second run
    ordered = [unique[text] for text in sorted(unique)]
    known = sorted({name for record in ordered for name in record["metrics"]})
    for name in [*metrics, *filter(None, [sort])]:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise RecordError(f"metric: no record has {name!r}{hint}; "
                              f"the records have {', '.join(known) or 'none'}")
    groups: dict[str, list[Record]] = {}
    for record in ordered:
        groups.setdefault(_group_key(record), []).append(record)
    return [_board(groups[key], metrics, sort) for key in sorted(groups)]


def _group_key(record: Record) -> str:
    identity, backbone = record["identity"], record["components"]["backbone"]
    protocol, data = identity["protocol"], identity["data"]
    return canonical_json([protocol["name"], protocol["version"], protocol["hash"], data["name"], data,
                           backbone["name"], backbone["type"], backbone["sha256"]])


def _board(records: list[Record], metrics: Sequence[str], sort: str | None) -> Board:
    used, failed = _newest(records)
    names = _method_names([*used, *failed])
    present = _metric_order(used)
    columns = tuple(name for name in dict.fromkeys(metrics) if name in present) if metrics else tuple(present)
    sort = sort if sort in present else (columns[0] if columns else None)
    methods: dict[str, list[Record]] = {}
    for record in used:
        methods.setdefault(record["identity"]["config_hash"], []).append(record)
    runs = {names[key]: sorted(group, key=_seed) for key, group in methods.items()}
    scores = {name: _scores(runs, name, higher) for name, (higher, _) in present.items()}
    rows = [_row(method, group, {name: scores[name][method] for name in columns if method in scores[name]})
            for method, group in runs.items()]

    def rank(row: Row) -> tuple[float, str]:
        if sort is None or row.method not in scores[sort]:
            return float("inf"), row.method
        mean = scores[sort][row.method].summary.mean
        higher_is_better, _ = present[sort]
        return -mean if higher_is_better else mean, row.method

    first = records[0]
    return Board(
        protocol=first["identity"]["protocol"], data=first["identity"]["data"],
        backbone=first["components"]["backbone"], metrics=columns,
        units={name: present[name][1] for name in columns}, sort=sort,
        rows=tuple(sorted(rows, key=rank)),
        failed=tuple((names[record["identity"]["config_hash"]], record) for record in failed),
        superseded=len(records) - len(used) - len(failed),
    )


def _newest(records: list[Record]) -> tuple[list[Record], list[Record]]:
    """Return the newest success of each id, and the newest run of each id that no success followed."""
    successes = [record for record in records if record["status"] == "success"]
    used = {record["id"]: record for record in sorted(successes, key=created_at)}  # the last one stays
    last = {record["id"]: record for record in sorted(records, key=created_at)}
    failed = [record for record in last.values() if record["status"] != "success"]
    return list(used.values()), sorted(failed, key=_seed)


def _seed(record: Record) -> tuple[int, str]:
    return record["identity"]["seed"], record["id"]


def _method_names(records: list[Record]) -> dict[str, str]:
    """Name each config hash by its tuner, and by what sets it apart where a tuner is there more than once."""
    tuners: dict[str, dict[str, Record]] = {}
    for record in records:
        settings = tuners.setdefault(_tuner_name(record), {})
        settings.setdefault(record["identity"]["config_hash"], record)
    names = {}
    for tuner, settings in tuners.items():
        for with_rate in (False, True):  # the learning rate is named only where the options do not do
            labels = {key: _labels(record, with_rate) for key, record in settings.items()}
            texts = {key: _difference(labels[key], list(labels.values())) for key in labels}
            if len(set(texts.values())) == len(texts):
                break
        else:
            texts = {key: f"{text}, config {key[:12]}".removeprefix(", ") for key, text in texts.items()}
        names.update({key: f"{tuner} ({text})" if text else tuner for key, text in texts.items()})
    return names


def _tuner_name(record: Record) -> str:
    """Name a tuner by its type, one of several members by theirs: ``LoRA + DoPL``."""
    tuner = record["components"]["tuner"]
    members = [member["type"] for option in tuner["options"].values() if isinstance(option, dict)
               for member in option.values() if isinstance(member, dict) and "type" in member]
    return " + ".join(members) or tuner["type"]


def _labels(record: Record, with_rate: bool) -> dict[str, str]:
    options = record["components"]["tuner"]["options"]
    labels = {name: value if isinstance(value, str) else canonical_json(value)
              for name, value in options.items()}
    labels["head"] = record["components"]["head"]["type"]
    if with_rate:
        labels["learning rate"] = canonical_json(record["selection"]["learning_rate"])
    return labels


def _difference(labels: dict[str, str], everyone: list[dict[str, str]]) -> str:
    """Write those labels that not everyone shares."""
    return ", ".join(f"{name}={text}" for name, text in labels.items()
                     if any(other.get(name) != text for other in everyone))


def _metric_order(records: list[Record]) -> dict[str, tuple[bool, str]]:
    """Return the metrics in the order in which records hold them: whether higher is better, and the unit."""
    order: dict[str, tuple[bool, str]] = {}
    for record in sorted(records, key=lambda record: record["id"]):
        for name, metric in record["metrics"].items():
            found = order.setdefault(name, (metric["higher_is_better"], metric["unit"]))
            for key, value in zip(("higher_is_better", "unit"), found, strict=True):
                if metric[key] != value:
                    raise RecordError(f"metrics.{name}.{key}: record {record['id']} contradicts another of its "
                                      "protocol; run the one that is wrong again")
    return order


def _scores(runs: dict[str, list[Record]], metric: str, higher_is_better: bool) -> dict[str, Score]:
    """Summarize one metric of every method, and mark the best and all whose interval overlaps with its."""
    summaries = {}
    for method, group in runs.items():
        if values := [run["metrics"][metric]["value"] for run in group if metric in run["metrics"]]:
            summaries[method] = summarize(values)
    # One run has no interval: it can be neither told from the best nor called equal to it.
    known = [summary for summary in summaries.values() if summary.half_width is not None]
    choose = max if higher_is_better else min
    best = choose(known, key=lambda summary: summary.mean, default=None)
    return {method: Score(summary, is_best=best is not None and summary.overlaps(best) is True)
            for method, summary in summaries.items()}


def _row(method: str, records: list[Record], scores: dict[str, Score]) -> Row:
    costs = [record["cost"] for record in records]
    counts = {(cost["parameters"]["trainable"], cost["parameters"]["share"]) for cost in costs}
    if len(counts) > 1:
        ids = ", ".join(record["id"] for record in records)
        raise RecordError(f"cost.parameters: the runs {ids} of {method} have one config and different "
                          "counts; run them again with one version of the code")
    ((trainable, share),) = counts
    peaks = [cost["memory_bytes"]["peak_allocated"] for cost in costs]
    steps = [cost["time_s"]["step_median"] for cost in costs if cost["time_s"]["step_median"] is not None]
    return Row(method=method, records=tuple(records), scores=scores, trainable=trainable, share=share,
               peak_memory_bytes=max((peak for peak in peaks if peak is not None), default=None),
               step_time_s=statistics.median(steps) if steps else None)
