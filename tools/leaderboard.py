"""Make a leaderboard from the records of runs.

    python tools/leaderboard.py work_dirs --out leaderboard

reads every record.json in and below the folders, prints a table for each protocol, data set and backbone, and
writes leaderboard.md, leaderboard.csv (one row a method) and records.csv (one row a run and metric).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a bare clone has petl_zoo beside tools only

from petl_zoo.results.leaderboard import build_boards
from petl_zoo.results.record import RecordError, read_records
from petl_zoo.results.render import print_boards, write_leaderboard


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make a leaderboard from the records of runs.")
    add = parser.add_argument
    add("folders", nargs="+", type=Path, metavar="DIR", help="work dirs, or folders above them")
    add("--out", type=Path, required=True, help="folder for the Markdown page and the CSV files")
    add("--metrics", default="", metavar="A,B", help="metrics to show, in order (default: all)")
    add("--sort", metavar="METRIC", help="metric to sort by (default: the first that is shown)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the tool; return 0, or 2 for bad input."""
    args = parse_args(argv)
    metrics = [name.strip() for name in args.metrics.split(",") if name.strip()]
    try:
        boards = build_boards(read_records(args.folders), metrics=metrics, sort=args.sort)
        files = write_leaderboard(boards, args.out)
    except (RecordError, OSError) as error:
        print(f"leaderboard: error: {error}", file=sys.stderr)
        return 2
    console = Console()
    print_boards(boards, console)
    for file in files:
        console.print(f"Wrote {file}", markup=False, highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
