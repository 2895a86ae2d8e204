"""Publish a pretrained backbone: python tools/publish.py WORK_DIR_OR_CHECKPOINT --out DIR."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # A bare clone works without being installed.

from petl_zoo.backbones.checkpoints import CheckpointError
from petl_zoo.backbones.publish import publish
from petl_zoo.engine.checkpoint import newest_checkpoint


def main(argv: list[str] | None = None) -> int:
    """Write fp16 weights and a card from a finished run; return the exit code."""
    parser = argparse.ArgumentParser(
        description="Write fp16 weights and a card from a finished pretraining run."
    )
    parser.add_argument("source", type=Path, help="work dir of the run, or a checkpoint in one")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder to write to; its name names the weights"
    )
    options = parser.parse_args(argv)
    checkpoint = newest_checkpoint(options.source) if options.source.is_dir() else options.source
    if checkpoint is None:
        parser.error(
            f"{options.source}: the folder holds no readable checkpoint (epoch_N.pth); "
            "give a work dir or a file"
        )
    try:
        weights = publish(checkpoint, options.out)
    except (CheckpointError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"wrote {weights} and {weights.with_name('CARD.md')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
