"""Evaluate a checkpoint that tools/train.py wrote.

    python tools/test.py configs/glyphs/clip_maple.py work_dirs/glyphs/clip_maple/seed_1/epoch_6.pth
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a bare clone has petl_zoo beside tools only

from petl_zoo.engine import launch


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Evaluate a checkpoint that tools/train.py wrote.")
    launch.add_run_options(parser)
    parser.add_argument("checkpoint", type=Path, help="epoch_N.pth of a run's work dir")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(launch.main(parse_args, launch.test))
