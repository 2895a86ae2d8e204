"""Boards as Markdown, CSV and a terminal's tables; the bytes depend on the records alone."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from petl_zoo.results.leaderboard import Board, Row, Score, environment
from petl_zoo.results.record import Record, canonical_json, write_text
from petl_zoo.results.statistics import CONFIDENCE

__all__ = ["markdown", "print_boards", "records_csv", "wide_csv", "write_leaderboard"]

NOT_MEASURED = "—"
MIXED = "†"  # marks columns whose cells were measured on different machines


def title(board: Board) -> str:
    """Name a board by its protocol, data and backbone."""
    shots = board.data["shots"]
    data = board.data["name"] + (f", {shots} shot{'s' * (shots > 1)}" if shots else "")
    return f"{board.protocol['name']} v{board.protocol['version']} · {data} · {board.backbone['name']}"


def identity(board: Board) -> list[str]:
    """Say what all runs of a board share, one line a component, and where they come from."""
    protocol, data, backbone = board.protocol, board.data, board.backbone
    weights = f"sha256 {backbone['sha256'][:12]}" if backbone["sha256"] else "random weights"
    commits = {(record["provenance"]["commit"], record["provenance"]["dirty"]) for record in board.records}
    names = sorted((commit or "unknown")[:12] + (" (dirty)" if dirty else "") for commit, dirty in commits)
    return [
        f"Protocol: {protocol['name']}, version {protocol['version']}, hash {protocol['hash'][:12]}",
        f"Data: {data['name']}, hash {data['hash'][:12]}, {data['num_train']:,} training and "
        f"{data['num_test']:,} test samples",
        f"Backbone: {backbone['name']} ({backbone['type']}), {backbone['parameters']:,} parameters, "
        f"{weights}",
        f"Measured on: {'; '.join(board.environments) or NOT_MEASURED}",
        f"Commit: {', '.join(names) or NOT_MEASURED}",
    ]


def notes(board: Board) -> list[str]:
    """Say how to read a board, and what was left out of it."""
    lines = []
    if board.rows:
        lines = [
            f"± is half the {CONFIDENCE:.0%} Student-t interval over seeds. Every metric, a harmonic mean "
            "too, is computed in each run and then averaged.",
            "Bold: the best mean, and every method whose interval overlaps with its interval: the seeds do "
            "not tell them apart.",
        ]
    if any(score.summary.n == 1 for row in board.rows for score in row.scores.values()):
        lines.append("A method with one seed has no interval, and so is never set in bold.")
    if len(board.environments) > 1:
        lines.append(f"{MIXED} Measured on more than one machine or setting; do not compare: " + "; ".join(
            f"{where}: {', '.join(row.method for row in board.rows if where in _environments(row))}"
            for where in board.environments) + ".")
    if board.superseded:
        runs = "run" if board.superseded == 1 else "runs"
        lines.append(f"{board.superseded} {runs} of the same method and seed as another left out: the newest "
                     "success counts.")
    lines += [f"Not averaged: {method}, seed {record['identity']['seed']}, {record['status']}: "
              f"{' '.join(record['error'].split())[:200]}" for method, record in board.failed]
    return lines


def headings(board: Board) -> list[str]:
    """Return the heading of each column, with its unit."""
    mark = f" {MIXED}" if len(board.environments) > 1 else ""
    metrics = (_with_unit(board, name) for name in board.metrics)
    return ["Method", "Seeds", "Trainable", "Backbone (%)", *metrics, f"Peak memory (MiB){mark}", f"Step (ms){mark}"]


def _with_unit(board: Board, metric: str) -> str:
    return f"{metric} ({'%' if board.units[metric] == 'fraction' else board.units[metric]})"


def cells(board: Board, row: Row) -> list[str]:
    """Return the text of each column of one row, without emphasis."""
    scores = [_score_text(row.scores.get(name), board.units[name], len(row.records)) for name in board.metrics]
    memory = NOT_MEASURED if row.peak_memory_bytes is None else f"{row.peak_memory_bytes / 2**20:,.1f}"
    step = NOT_MEASURED if row.step_time_s is None else f"{row.step_time_s * 1000:,.1f}"
    return [row.method, str(len(row.records)), f"{row.trainable:,}", f"{row.share * 100:.3g}", *scores,
            memory, step]


def _score_text(score: Score | None, unit: str, seeds: int) -> str:
    if score is None:
        return NOT_MEASURED
    summary, scale = score.summary, 100 if unit == "fraction" else 1
    width = "" if summary.half_width is None else f" ± {summary.half_width * scale:.2f}"
    # The column Seeds gives n, unless some runs lack this metric.
    count = f" (n={summary.n})" if summary.n == 1 or summary.n != seeds else ""
    return f"{summary.mean * scale:.2f}{width}{count}"


def _bold(board: Board, row: Row) -> list[bool]:
    scores = [name in row.scores and row.scores[name].is_best for name in board.metrics]
    return [False] * 4 + scores + [False] * 2


def _environments(row: Row) -> set[str]:
    return {environment(record) for record in row.records}


def markdown(boards: Sequence[Board]) -> str:
    """Write boards as one Markdown page: of several an overview, then a section each."""
    parts = ["# Leaderboard\n"]
    filled = [board for board in boards if board.rows and board.metrics]
    if len(filled) > 1:
        parts.append("\n".join(overview(filled)) + "\n")
    for board in boards:
        lines = [f"## {_plain(title(board))}", "", *(f"- {_plain(line)}" for line in identity(board)), ""]
        if board.rows:
            heads = headings(board)
            lines += [_line(map(_plain, heads)), _line(["---"] + ["---:"] * (len(heads) - 1))]
            lines += [_line(f"**{_plain(text)}**" if bold else _plain(text)
                            for text, bold in zip(cells(board, row), _bold(board, row), strict=True))
                      for row in board.rows]
        else:
            lines.append("No run succeeded.")
        parts.append("\n".join([*lines, "", *(f"- {_plain(line)}" for line in notes(board))]) + "\n")
    return "\n".join(parts)


def overview(boards: Sequence[Board]) -> list[str]:
    """Write one table of several boards: a row a method, a column a board, in the metric that it is sorted by.

    A method's row is in the place of the first board that has it.
    """
    shown = [board.sort if board.sort in board.metrics else board.metrics[0] for board in boards]
    # A column is named by what tells the boards apart.
    parts = [(board.protocol["name"], board.data["name"], board.backbone["name"], name)
             for board, name in zip(boards, shown, strict=True)]
    differing = [at for at in range(4) if len({part[at] for part in parts}) > 1]
    named = [" · ".join(part[at] for at in differing) for part in parts]
    if len(set(named)) < len(boards):
        named = [f"{title(board)} · {name}" for board, name in zip(boards, shown, strict=True)]
    methods = dict.fromkeys(row.method for board in boards for row in board.rows)
    metrics = dict.fromkeys(map(_with_unit, boards, shown))
    lines = ["## Overview", "", f"{_plain(', '.join(metrics))}; the boards below say more.", "",
             _line(["Method", *map(_plain, named)]), _line(["---"] + ["---:"] * len(boards))]
    for method in methods:
        texts = []
        for board, name in zip(boards, shown, strict=True):
            score = next((row.scores.get(name) for row in board.rows if row.method == method), None)
            text = _score_text(score, board.units[name], 0 if score is None else score.summary.n)
            texts.append(f"**{text}**" if score is not None and score.is_best else text)
        lines.append(_line([_plain(method), *texts]))
    return lines


def _plain(text: str) -> str:
    """Escape what Markdown would take for emphasis, code, a tag or the end of a cell."""
    return "".join(f"\\{char}" if char in "\\|*`<>[]" else char for char in text)


def _line(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def wide_csv(boards: Sequence[Board]) -> str:
    """Write boards as CSV, one row a method; metrics are fractions or ranks, an empty cell was not measured."""
    rows = []
    for board in boards:
        for row in board.rows:
            scores: dict[str, object] = {}
            for name, score in row.scores.items():
                summary = score.summary
                scores |= {f"{name}_mean": summary.mean, f"{name}_half_width": summary.half_width,
                           f"{name}_deviation": summary.deviation, f"{name}_seeds": summary.n,
                           f"{name}_is_best": score.is_best}
            rows.append({**_group(row.records[0]), "method": row.method, **_setting(row.records[0]),
                         "seeds": len(row.records), "trainable": row.trainable, "share": row.share,
                         "peak_memory_bytes": row.peak_memory_bytes, "step_time_s": row.step_time_s,
                         "measured_on": "; ".join(sorted(_environments(row))), **scores})
    return _csv(rows)


def records_csv(boards: Sequence[Board]) -> str:
    """Write the runs behind boards as CSV, one row for each run and metric it has, in the metric's unit."""
    rows = []
    for board in boards:
        for row in board.rows:
            for record in row.records:
                run = {**_group(record), "method": row.method, **_setting(record), "id": record["id"],
                       "created_at": record["created_at"], "seed": record["identity"]["seed"]}
                rows += [{**run, "metric": name, **metric, **_cost(record)}
                         for name, metric in record["metrics"].items()]
    return _csv(rows)


def _group(record: Record) -> dict[str, object]:
    protocol, data = record["identity"]["protocol"], record["identity"]["data"]
    backbone = record["components"]["backbone"]
    return {"protocol": protocol["name"], "protocol_version": protocol["version"],
            "protocol_hash": protocol["hash"], "data": data["name"], "data_hash": data["hash"],
            "shots": data["shots"], "num_train": data["num_train"], "num_test": data["num_test"],
            "backbone": backbone["name"], "backbone_sha256": backbone["sha256"]}


def _setting(record: Record) -> dict[str, object]:
    tuner = record["components"]["tuner"]
    return {"tuner": tuner["type"], "options": canonical_json(tuner["options"]),
            "config_hash": record["identity"]["config_hash"]}


def _cost(record: Record) -> dict[str, object]:
    cost, provenance = record["cost"], record["provenance"]
    return {"learning_rate": record["selection"]["learning_rate"],
            "trainable": cost["parameters"]["trainable"], "share": cost["parameters"]["share"],
            "peak_memory_bytes": cost["memory_bytes"]["peak_allocated"],
            "step_time_s": cost["time_s"]["step_median"], "train_time_s": cost["time_s"]["train"],
            "measured_on": environment(record), "commit": provenance["commit"], "dirty": provenance["dirty"]}


def _csv(rows: list[dict[str, object]]) -> str:
    file = io.StringIO()
    columns = dict.fromkeys(name for row in rows for name in row)  # in the order of first appearance
    writer = csv.DictWriter(file, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def write_leaderboard(boards: Sequence[Board], out: Path) -> list[Path]:
    """Write leaderboard.md, leaderboard.csv and records.csv into a folder, made if need be; return the files.

    Raises:
        OSError: the folder cannot be made or written.
    """
    texts = {"leaderboard.md": markdown(boards), "leaderboard.csv": wide_csv(boards),
             "records.csv": records_csv(boards)}
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(out / name, text)
    return [out / name for name in texts]


def print_boards(boards: Sequence[Board], console: Console) -> None:
    """Print boards as tables on a terminal."""
    for board in boards:
        table = Table(title=escape(title(board)), title_justify="left")
        for index, heading in enumerate(headings(board)):
            table.add_column(escape(heading), justify="right" if index else "left")
        for row in board.rows:
            table.add_row(*(f"[bold]{escape(text)}[/bold]" if bold else escape(text)
                            for text, bold in zip(cells(board, row), _bold(board, row), strict=True)))
        console.print(table)
        for line in [*identity(board), *notes(board)]:
            console.print(escape(line), style="dim")
