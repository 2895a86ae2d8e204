"""Count the parameters that a tuner trains on a backbone; needs no weights.

    python tools/params.py --backbone clip_vit_b16 --tuner maple --cfg-options tuner.depth=3

prints one line of JSON: trainable, total, by_stream, by_role. The head decides which streams a tuner adapts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a bare clone has petl_zoo beside tools only

from mmengine.config import DictAction

from petl_zoo.engine.counting import count_parameters
from petl_zoo.engine.faults import report_faults


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Count the parameters that a tuner trains on a backbone.")
    add = parser.add_argument
    add("--backbone", required=True, help="a file of configs/_base_/backbones, such as clip_vit_b16")
    add("--tuner", required=True, help="a file of configs/_base_/tuners, such as maple")
    add("--head", help="a file of configs/_base_/heads (default: retrieval, or classification if the tuner needs it)")
    add("--classes", type=int, default=100, help="classes, for tuners with parameters for each (default: %(default)s)")
    add("--cfg-options", nargs="+", action=DictAction, default={}, metavar="KEY=VALUE", help="such as tuner.depth=3")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the counts."""
    args = parse_args(argv)
    counts = count_parameters(args.backbone, args.tuner, args.cfg_options, head=args.head, classes=args.classes)
    print(json.dumps(counts))


if __name__ == "__main__":
    sys.exit(report_faults(main))
