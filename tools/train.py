"""Train a tuner, evaluate it and write its record.

    python tools/train.py configs/glyphs/clip_maple.py
    python tools/train.py configs/glyphs/clip_maple.py --seed 2 --cfg-options tuner.depth=3
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a bare clone has petl_zoo beside tools only

from petl_zoo.engine import launch


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a tuner, evaluate it and write its record.")
    launch.add_run_options(parser)
    parser.add_argument("--resume", action="store_true", help="go on after the last complete epoch of the work dir")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(launch.main(parse_args, launch.train))
