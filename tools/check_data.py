"""Say of each data set what is there, what is missing, and whether its counts are right; before a run finds out.

    python tools/check_data.py                                        # all of configs/_base_/datasets
    python tools/check_data.py dtd flickr30k
    python tools/check_data.py coco --cfg-options dataset.root=/data/coco
    python tools/check_data.py my_configs/my_run.py                   # the data set of any config

Exit code 1 when a data set that was named is incomplete.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a bare clone has petl_zoo beside tools only

from mmengine.config import DictAction
from rich.console import Console
from rich.table import Table

from petl_zoo.data.check import check
from petl_zoo.engine.faults import ConfigError, Fault, blaming, report_faults
from petl_zoo.engine.merging import load

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "_base_" / "datasets"
MARKS = {True: "[green]yes[/]", False: "[red]no[/]", None: ""}


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Say of each data set what is there and what is missing.")
    add = parser.add_argument
    add("names", nargs="*", help="files of configs/_base_/datasets, such as coco, or config files (default: all)")
    add("--cfg-options", nargs="+", action=DictAction, default={}, metavar="KEY=VALUE", help="such as dataset.root=DIR")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> bool:
    """Print a table; returns whether every data set in it is complete."""
    args = parse_args(argv)
    names = args.names or sorted(path.stem for path in CONFIGS.glob("*.py"))
    table = Table("data set", "what", "right", "where, or how many")
    complete = True
    for name in names:
        cfg = load(Path(name) if name.endswith(".py") else CONFIGS / f"{name}.py", args.cfg_options)
        if "dataset" not in cfg:
            raise ConfigError([Fault(name, "the config file has no section dataset")])
        with blaming("dataset"):
            findings = check(cfg["dataset"])
        for place, finding in enumerate(findings):
            table.add_row("" if place else name, finding.what, MARKS[finding.good], finding.detail)
        table.add_section()
        complete = complete and all(finding.good is not False for finding in findings)
    # Where the output is no terminal nothing is folded: paths can be searched for.
    Console(width=None if sys.stdout.isatty() else 10_000).print(table)
    return complete


def run(argv: Sequence[str] | None = None) -> int:
    """The tool; returns its exit code."""
    found: list[bool] = []
    code = report_faults(lambda: found.append(main(argv)))
    return code or int(bool(parse_args(argv).names) and not all(found))


if __name__ == "__main__":
    sys.exit(run())
