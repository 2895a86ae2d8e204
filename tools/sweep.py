"""Vary one run along named axes, and draw what comes of it.

    python tools/sweep.py configs/sweeps/dopl_ablations.py
    python tools/sweep.py configs/sweeps/dopl_ablations.py --axes depth,length --seeds 1 --amp

runs every variant for every seed into work_dirs/SWEEP/AXIS_OPTION/seed_N, what has a record aside, prints a table an
axis and writes sweep.md and AXIS.png. Interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import DictAction

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a bare clone has petl_zoo beside tools only

from petl_zoo.engine.faults import report_faults
from petl_zoo.engine.sweep import run_sweep


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Vary one run along named axes, and draw what comes of it.")
    add = parser.add_argument
    add("sweep", type=Path, metavar="SWEEP", help="sweep file, such as configs/sweeps/dopl_ablations.py")
    add("--axes", default="", metavar="A,B", help="axes to run (default: all)")
    add("--seeds", default=[], metavar="N,M", type=lambda text: [int(seed) for seed in text.split(",")],
        help="seeds (default: the sweep's)")  # fmt: skip
    add("--metric", help="metric to compare (default: the protocol's headline)")
    add("--out", type=Path, help="folder of runs, tables and figures (default: work_dirs/SWEEP)")
    add("--amp", action="store_true", help="run under bfloat16 autocast")
    add("--cfg-options", nargs="+", action=DictAction, default={}, metavar="KEY=VALUE",
        help="values to change in all variants, such as schedule.epochs=1")  # fmt: skip
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing, and draw."""
    args = parse_args(argv)
    run_sweep(
        args.sweep,
        out=args.out or Path("work_dirs") / args.sweep.stem,
        seeds=args.seeds,
        axes=[name.strip() for name in args.axes.split(",") if name.strip()],
        metric=args.metric,
        overrides={**args.cfg_options, **({"runtime.amp": True} if args.amp else {})},
    )


if __name__ == "__main__":
    sys.exit(report_faults(main, again="The same command goes on after the last complete epoch."))
