"""Time the project's exact shortcuts against plain code, side by side in one process.

    python tools/benchmark.py classes --backbone clip_vit_b16 --tuner maple --classes 100 --batch 4
    python tools/benchmark.py rerank --backbone blip_base --candidates 64

prints one line of JSON: median seconds with and without them, their ratio, and how far the results differ.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a bare clone has petl_zoo beside tools only

from mmengine.config import DictAction

from petl_zoo.engine.benchmark import benchmark_classes, benchmark_rerank
from petl_zoo.engine.faults import report_faults


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time exact shortcuts against plain code.")
    what = parser.add_subparsers(dest="benchmark", required=True)
    classes = what.add_parser("classes", help="a training step of classification by class names")
    add = classes.add_argument
    add("--backbone", required=True, help="a file of configs/_base_/backbones, such as clip_vit_b16")
    add("--tuner", required=True, help="a file of configs/_base_/tuners, such as maple")
    add("--classes", type=int, default=100, help="class names (default: %(default)s)")
    add("--batch", type=int, default=4, help="images a step (default: %(default)s)")
    add("--repeats", type=int, default=5, help="timed steps of each (default: %(default)s)")
    add("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    add("--cfg-options", nargs="+", action=DictAction, default={}, metavar="KEY=VALUE", help="such as tuner.depth=3")
    rerank = what.add_parser("rerank", help="matching one image with its candidate captions")
    add = rerank.add_argument
    add("--backbone", required=True, help="a file of configs/_base_/backbones with a matching score, such as blip_base")
    add("--candidates", type=int, default=64, help="captions (default: %(default)s)")
    add("--repeats", type=int, default=3, help="timed passes of each (default: %(default)s)")
    add("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark and print its figures."""
    args = parse_args(argv)
    if args.benchmark == "rerank":
        figures = benchmark_rerank(
            args.backbone, candidates=args.candidates, repeats=args.repeats, device=args.device
        )
    else:
        figures = benchmark_classes(
            args.backbone,
            args.tuner,
            classes=args.classes,
            batch=args.batch,
            repeats=args.repeats,
            device=args.device,
            overrides=args.cfg_options,
        )
    print(json.dumps(figures))


if __name__ == "__main__":
    sys.exit(report_faults(main))
