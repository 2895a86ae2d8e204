"""Choose learning rates on validation data, with the same trials for every tuner.

    python tools/tune.py configs/glyphs/clip_*.py --lrs 0.0007,0.0035,0.0175,0.0875

writes all trials to trials.json beside the configs. The rates themselves are set in the configs by hand.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a bare clone has petl_zoo beside tools only

from petl_zoo.engine.faults import report_faults
from petl_zoo.engine.report import TRIALS_NAME
from petl_zoo.engine.tuning import tune


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Choose learning rates on validation data.")
    add = parser.add_argument
    add("configs", nargs="+", type=Path, metavar="CONFIG", help="config files of one protocol, data set and metric")
    add("--lrs", required=True, metavar="A,B,...", type=lambda text: [float(rate) for rate in text.split(",")],
        help="the learning rates, the same for every config")  # fmt: skip
    add("--seed", type=int, default=0, help="seed of all trials (default: %(default)s)")
    add("--out", type=Path, help=f"file of the trials (default: {TRIALS_NAME} beside the first config)")
    add("--scratch", type=Path, default=Path("work_dirs/tune"), help="folder for the trials (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the trials that are missing."""
    args = parse_args(argv)
    out = args.out or args.configs[0].parent / TRIALS_NAME
    chosen = tune(args.configs, args.lrs, seed=args.seed, out=out, scratch=args.scratch)["chosen"]
    for stem, best in chosen.items():
        print(f"{stem}: schedule.lr={best['lr']:g}")
    print(f"Trials: {out}")


if __name__ == "__main__":
    sys.exit(report_faults(main, again="The same command goes on with the trials that are missing."))
