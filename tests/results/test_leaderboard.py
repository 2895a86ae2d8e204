"""Boards: what may be averaged, what is best, what is left out."""

from __future__ import annotations

import copy
import csv
import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petl_zoo.results.leaderboard import Board, build_boards
from petl_zoo.results.record import RecordError, record_id, validate_record
from petl_zoo.results.render import markdown, notes, records_csv, wide_csv, write_leaderboard

MakeRecord = Callable[..., dict[str, Any]]


def seeds(
    make_record: MakeRecord, tuner: str, accuracies: list[float], **changes: Any
) -> list[dict[str, Any]]:
    return [make_record(tuner=tuner, seed=seed, metrics={"accuracy": accuracy}, **changes)
            for seed, accuracy in enumerate(accuracies)]


def best(board: Board, metric: str = "accuracy") -> list[str]:
    return [row.method for row in board.rows if row.scores[metric].is_best]


@pytest.fixture
def example(make_record: MakeRecord) -> list[dict[str, Any]]:
    """Return runs that show all a page can: two boards, settings, a failure, an old run, two machines."""
    def few_shot(tuner: str, seed: int, base: float, new: float, **changes: Any) -> dict[str, Any]:
        metrics = {"harmonic_mean": 2 * base * new / (base + new), "base": base, "new": new}
        return make_record(tuner=tuner, seed=seed, metrics=metrics, protocol="base_to_new", **changes)

    records = [few_shot("MaPLe", seed, 0.70 + seed / 100, 0.60, trainable=3_555, peak=2**20 * 50)
               for seed in range(3)]
    records += [few_shot("LoRA", seed, 0.71, 0.52 + seed / 100, options={"rank": 4}) for seed in range(3)]
    records += [few_shot("LoRA", seed, 0.65, 0.40 + seed / 100, options={"rank": 8}) for seed in range(3)]
    records += [few_shot("NoTuner", 0, 0.5, 0.5, trainable=0, step=None)]
    records += [few_shot("MaPLe", 1, 0.1, 0.1, trainable=3_555, day=1)]
    records[1]["created_at"] = "2026-11-05T10:00:00Z"
    records[0]["provenance"]["device"] = "NVIDIA | H100"
    records += [few_shot("CoOp", 2, 0, 0.1, status="failed")]
    records += seeds(make_record, "MaPLe", [0.5, 0.6])
    assert [validate_record(record) for record in records] == [[]] * len(records)
    return records


def test_methods_are_averaged_over_seeds(make_record: MakeRecord) -> None:
    (board,) = build_boards(seeds(make_record, "MaPLe", [0.60, 0.62, 0.64], peak=100, step=0.02))
    (row,) = board.rows
    assert row.method == "MaPLe"
    assert [record["identity"]["seed"] for record in row.records] == [0, 1, 2]
    assert row.scores["accuracy"].summary.mean == pytest.approx(0.62)
    assert row.scores["accuracy"].summary.half_width == pytest.approx(0.049683, abs=1e-6)
    assert (row.trainable, row.share, row.peak_memory_bytes, row.step_time_s) == (10_000, 0.01, 100, 0.02)


def test_costs_are_the_largest_peak_and_the_median_step(make_record: MakeRecord) -> None:
    costs = [(5, 0.1), (9, 0.4), (None, 0.2)]
    records = [make_record(seed=seed, peak=peak, step=step) for seed, (peak, step) in enumerate(costs)]
    (row,) = build_boards(records)[0].rows
    assert (row.peak_memory_bytes, row.step_time_s) == (9, 0.2)


@pytest.mark.parametrize(
    "change", [{"protocol": "base_to_new"}, {"data_hash": "ef" * 8}, {"backbone": "clip_vit_b16"}])
def test_protocols_data_and_backbones_are_never_mixed(
    make_record: MakeRecord, change: dict[str, Any]
) -> None:
    boards = build_boards([make_record(seed=0), make_record(seed=1, **change)])
    assert [[len(row.records) for row in board.rows] for board in boards] == [[1], [1]]
    assert markdown(boards).count("\n## ") == 3  # An overview, then each.


def test_protocol_of_another_hash_is_another_board(make_record: MakeRecord) -> None:
    other = make_record(seed=1)
    other["identity"]["protocol"]["hash"] = "12" * 8
    other["id"] = record_id(other["identity"])
    assert len(build_boards([make_record(seed=0), other])) == 2


def test_best_is_the_set_whose_intervals_overlap(make_record: MakeRecord) -> None:
    records = seeds(make_record, "A", [0.70, 0.72, 0.74])  # 0.72 ± 0.0497
    records += seeds(make_record, "B", [0.68, 0.68, 0.68])  # inside
    records += seeds(make_record, "C", [0.66, 0.66, 0.66])  # below the lower end
    (board,) = build_boards(records)
    assert [row.method for row in board.rows] == ["A", "B", "C"]
    assert best(board) == ["A", "B"]


def test_one_seed_is_never_best(make_record: MakeRecord) -> None:
    records = [*seeds(make_record, "A", [0.9]), *seeds(make_record, "B", [0.5, 0.51])]
    (board,) = build_boards(records)
    assert best(board) == ["B"]
    assert "A method with one seed has no interval, and so is never set in bold." in notes(board)
    assert best(build_boards(records[:1])[0]) == []


def test_lower_can_be_better(make_record: MakeRecord) -> None:
    records = [make_record(tuner=tuner, seed=seed, metrics={"error": error}, lower=("error",))
               for tuner, error in (("A", 0.4), ("B", 0.1)) for seed in range(2)]
    (board,) = build_boards(records)
    assert [row.method for row in board.rows] == ["B", "A"]
    assert best(board, "error") == ["B"]


def test_ranks_are_numbers_and_the_lowest_is_best(make_record: MakeRecord) -> None:
    records = [make_record(tuner=tuner, seed=seed, metrics={"recall": 0.5, "median_rank": rank + seed},
                           ranks=("median_rank",)) for tuner, rank in (("A", 40.0), ("B", 2.0)) for seed in range(2)]
    (board,) = build_boards(records, sort="median_rank")
    assert [row.method for row in board.rows] == ["B", "A"]
    page = markdown([board])
    assert "| recall (%) | median_rank (rank) |" in page
    assert "| B | 2 | 10,000 | 1 | **50.00 ± 0.00** | **2.50 ± 6.35** |" in page
    assert "| A | 2 | 10,000 | 1 | **50.00 ± 0.00** | 40.50 ± 6.35 |" in page
    (wide, _) = csv.DictReader(io.StringIO(wide_csv([board])))
    assert (wide["median_rank_mean"], wide["recall_mean"]) == ("2.5", "0.5")
    assert [row["unit"] for row in csv.DictReader(io.StringIO(records_csv([board])))][:2] == ["fraction", "rank"]


def test_settings_of_one_tuner_are_told_apart(make_record: MakeRecord) -> None:
    records = [
        make_record(tuner="LoRA", options={"rank": 4, "streams": ["text"], "alpha": 1}),
        make_record(tuner="LoRA", options={"rank": 8, "streams": ["text"], "alpha": 1}),
        make_record(tuner="CoOp", learning_rate=0.1), make_record(tuner="CoOp", learning_rate=0.2),
        make_record(tuner="VPT", options={"depth": 1}), make_record(tuner="VPT", options={}),
        make_record(tuner="MaPLe", options={"depth": 9}),
    ]
    (board,) = build_boards(records)
    assert sorted(row.method for row in board.rows) == [
        "CoOp (learning rate=0.1)", "CoOp (learning rate=0.2)", "LoRA (rank=4)", "LoRA (rank=8)", "MaPLe",
        "VPT", "VPT (depth=1)"]


def test_settings_that_only_the_config_tells_apart_show_its_hash(make_record: MakeRecord) -> None:
    records = [make_record(), make_record()]
    for record, digit in zip(records, "ab", strict=True):
        record["identity"]["config_hash"] = digit * 64
        record["id"] = record_id(record["identity"])
    (board,) = build_boards(records)
    assert [row.method for row in board.rows] == [f"MaPLe (config {'a' * 12})", f"MaPLe (config {'b' * 12})"]


def test_newest_run_of_a_method_and_seed_counts(make_record: MakeRecord) -> None:
    records = [make_record(metrics={"accuracy": day / 10}, day=day) for day in (2, 9, 3)]
    (board,) = build_boards(records)
    assert board.rows[0].scores["accuracy"].summary.mean == 0.9
    assert board.superseded == 2
    expected = "2 runs of the same method and seed as another left out: the newest success counts."
    assert expected in notes(board)


def test_copy_of_a_record_is_not_a_second_run(make_record: MakeRecord) -> None:
    (board,) = build_boards([make_record(), make_record()])
    assert (len(board.records), board.superseded) == (1, 0)


@pytest.mark.parametrize(("failed_on", "listed", "superseded"), [(1, 0, 1), (9, 1, 0)])
def test_failed_run_is_listed_until_a_success_follows(
    make_record: MakeRecord, failed_on: int, listed: int, superseded: int
) -> None:
    (board,) = build_boards([make_record(day=5), make_record(status="failed", day=failed_on)])
    assert len(board.records) == 1
    assert (len(board.failed), board.superseded) == (listed, superseded)


def test_board_without_a_success_lists_its_failures(make_record: MakeRecord) -> None:
    page = markdown(build_boards([make_record(seed=4, status="failed")]))
    assert "No run succeeded." in page
    assert "- Not averaged: MaPLe, seed 4, failed: out of memory" in page


def test_metrics_are_chosen_and_sorted_by(make_record: MakeRecord) -> None:
    records = [make_record(tuner=tuner, metrics={"base": base, "new": new})
               for tuner, base, new in [("A", 0.9, 0.1), ("B", 0.5, 0.5)]]
    assert [board.metrics for board in build_boards(records)] == [("base", "new")]
    (board,) = build_boards(records, metrics=["new"])
    assert (board.metrics, [row.method for row in board.rows]) == (("new",), ["B", "A"])
    (board,) = build_boards(records, metrics=["new"], sort="base")
    assert [row.method for row in board.rows] == ["A", "B"]
    expected = r"no record has 'nwe' \(did you mean 'new'\?\); the records have base, new"
    with pytest.raises(RecordError, match=expected):
        build_boards(records, sort="nwe")


def test_method_without_the_metric_comes_last(make_record: MakeRecord) -> None:
    metrics = {"A": {"recall": 0.9}, "B": {"accuracy": 0.1}}
    records = [make_record(tuner=tuner, metrics=values) for tuner, values in metrics.items()]
    (board,) = build_boards(records, sort="accuracy")
    assert [row.method for row in board.rows] == ["B", "A"]
    assert "| A | 1 | 10,000 | 1 |" in markdown([board])


def test_a_stack_is_named_by_its_members(make_record: MakeRecord) -> None:
    def stack(rank: int) -> dict[str, Any]:
        members = {"first": {"type": "LoRA", "rank": rank}, "second": {"type": "DoPL"}}
        return make_record(tuner="Stack", options={"tuners": members})

    (board,) = build_boards([stack(4), make_record(tuner="LoRA")])
    assert sorted(row.method for row in board.rows) == ["LoRA", "LoRA + DoPL"]
    (board,) = build_boards([stack(4), stack(8)])
    assert all(row.method.startswith("LoRA + DoPL (tuners={") for row in board.rows)


def test_records_that_contradict_each_other_are_named(make_record: MakeRecord) -> None:
    first, second = make_record(seed=0), make_record(seed=1)
    second["metrics"]["accuracy"]["higher_is_better"] = False
    with pytest.raises(RecordError, match=r"accuracy\.higher_is_better: record [0-9a-f]{12} contradicts"):
        build_boards([first, second])
    second["metrics"]["accuracy"] |= {"higher_is_better": True, "unit": "rank", "value": 1}
    with pytest.raises(RecordError, match=r"accuracy\.unit: record [0-9a-f]{12} contradicts"):
        build_boards([first, second])
    with pytest.raises(RecordError, match=r"parameters: the runs .* of MaPLe have one config and different"):
        build_boards([make_record(seed=0), make_record(seed=1, trainable=5)])


def test_time_and_memory_are_marked_where_machines_differ(make_record: MakeRecord) -> None:
    page = markdown(build_boards([make_record(tuner="A"), make_record(tuner="B", device="NVIDIA H100")]))
    assert "| Peak memory (MiB) † | Step (ms) † |" in page
    assert "NVIDIA H100, float32, 1 process: B; cpu, float32, 1 process: A." in page
    assert "†" not in markdown(build_boards([make_record(tuner="A"), make_record(tuner="B")]))


def test_page_is_the_golden_one(example: list[dict[str, Any]]) -> None:
    golden = Path(__file__).with_name("leaderboard.golden.md")
    assert markdown(build_boards(example)) == golden.read_text(encoding="utf-8")


def test_bytes_depend_on_the_records_alone(example: list[dict[str, Any]], tmp_path: Path) -> None:
    first = [path.read_bytes() for path in write_leaderboard(build_boards(example), tmp_path / "a")]
    shuffled = copy.deepcopy(example)
    random.Random(0).shuffle(shuffled)
    second = [path.read_bytes() for path in write_leaderboard(build_boards(shuffled), tmp_path / "b")]
    assert first == second


def test_csv_files_hold_fractions(make_record: MakeRecord) -> None:
    records = [make_record(tuner="LoRA", seed=seed, options={"rank": 4},
                           metrics={"base": 0.5 + seed / 10, "new": 0.25}) for seed in range(2)]
    boards = build_boards(records)
    (wide,) = csv.DictReader(io.StringIO(wide_csv(boards)))
    assert (wide["method"], wide["seeds"], wide["trainable"], wide["share"]) == ("LoRA", "2", "10000", "0.01")
    assert (wide["base_mean"], wide["new_mean"], wide["new_half_width"]) == ("0.55", "0.25", "0.0")
    assert (wide["peak_memory_bytes"], wide["step_time_s"]) == ("", "0.0125")
    long = list(csv.DictReader(io.StringIO(records_csv(boards))))
    assert [(row["seed"], row["metric"], row["value"]) for row in long] == [
        ("0", "base", "0.5"), ("0", "new", "0.25"), ("1", "base", "0.6"), ("1", "new", "0.25")]
    assert {row["id"] for row in long} == {record["id"] for record in records}
    assert long[0]["options"] == '{"rank":4}'
