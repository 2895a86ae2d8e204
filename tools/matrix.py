"""Try every backbone with every tuner and every head, and write down what goes together.

    python tools/matrix.py

builds each combination at tiny sizes, takes a training step, evaluates, and writes ``docs/support_matrix.md``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a bare clone has petl_zoo beside tools only

from petl_zoo.engine.faults import report_faults
from petl_zoo.engine.matrix import cells, render

PAGE = Path(__file__).resolve().parents[1] / "docs" / "support_matrix.md"


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Try every backbone with every tuner and every head.")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page (default: docs/support_matrix.md)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page and say how many cells work."""
    args = parse_args(argv)
    found = list(cells())
    args.out.write_text(render(found), encoding="utf-8")
    works = sum(cell.reason is None for cell in found)
    print(f"{works} of {len(found)} combinations work; the others say why not: {args.out}")


if __name__ == "__main__":
    sys.exit(report_faults(main))
