"""What the tools do: check a config, build its runner, train, evaluate, write the record."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction

from petl_zoo.results.record import RECORD_NAME, Record, write_record, write_text

from .checkpoint import epoch_checkpoints, read_checkpoint
from .config import assemble, default_work_dir, identity_of
from .faults import ConfigError, RunError, report_faults, warn
from .identity import IDENTITY_NAME, check_same_tuner, differences
from .merging import load
from .report import make_record, print_record
from .runner import ZooRunner
from .validate import validate


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that training and testing share."""
    add = parser.add_argument
    add("config", type=Path, help="config file, such as configs/glyphs/clip_maple.py")
    add("--work-dir", type=Path, help="folder of the run (default: work_dirs/CONFIG/seed_N)")
    add("--seed", type=int, help="seed of everything drawn at random (default: the config's)")
    add("--amp", action="store_true", help="run under bfloat16 autocast")
    add("--launcher", choices=("none", "pytorch", "slurm"), default="none", help="how processes are started")
    add("--cfg-options", nargs="+", action=DictAction, default={}, metavar="KEY=VALUE",
        help="values to change, such as tuner.depth=3 schedule.lr=0.01")  # fmt: skip
    add("--print-config", action="store_true", help="print the assembled config and stop")


def overrides_of(args: argparse.Namespace) -> dict[str, Any]:
    """The options of the command line as overrides of the config."""
    overrides = dict(args.cfg_options)
    if args.seed is not None:
        overrides["runtime.seed"] = args.seed
    if args.amp:
        overrides["runtime.amp"] = True
    return overrides


def checked(path: Path, overrides: dict[str, Any]) -> Config:
    """Load, merge and validate a config; warn of what is not fatal.

    Raises:
        ConfigError: everything that is wrong with it.
    """
    cfg = load(path, overrides)
    faults = validate(cfg, overrides)
    fatal = [fault for fault in faults if fault.fatal]
    if fatal:
        raise ConfigError(fatal)
    for fault in faults:
        warn(str(fault))
    return cfg


def holds_run(cfg: Config, work_dir: Path) -> bool:
    """Whether a work dir holds this run, finished or not, rather than none.

    Raises:
        RunError: it holds a run of another config.
    """
    beside = work_dir / IDENTITY_NAME
    if not beside.is_file():
        return False
    lines = differences(json.loads(beside.read_text()), identity_of(cfg))
    if lines:
        raise RunError(
            f"work dir: {work_dir} holds a run of another config:\n  " + "\n  ".join(lines) + "\n"
            "Choose another --work-dir, or give the values that the run was started with"
        )
    return True


def prepare_work_dir(cfg: Config, work_dir: Path, *, resume: bool) -> None:
    """Check that a work dir is free for this run, or holds this run; only then write to it.

    Raises:
        RunError: it holds a run of another config, or there is nothing to resume.
    """
    if not holds_run(cfg, work_dir) and resume:
        raise RunError(f"--resume: there is no run in {work_dir}; leave --resume out, or give its --work-dir")
    work_dir.mkdir(parents=True, exist_ok=True)
    write_text(work_dir / IDENTITY_NAME, json.dumps(identity_of(cfg), indent=2) + "\n")
    if not resume:
        for path in epoch_checkpoints(work_dir):
            path.unlink(missing_ok=True)  # Of an earlier run of the same config, which this one repeats.


def train(args: argparse.Namespace) -> Record | None:
    """Train a config's tuner, evaluate it, and write its record."""
    cfg = checked(args.config, overrides_of(args))
    work_dir = args.work_dir or default_work_dir(cfg)
    prepare_work_dir(cfg, work_dir, resume=args.resume)
    return run(assemble(cfg, work_dir=work_dir, resume=args.resume, launcher=args.launcher))


def test(args: argparse.Namespace) -> Record | None:
    """Evaluate a checkpoint, and write a record of it."""
    cfg = checked(args.config, overrides_of(args))
    check_same_tuner(args.checkpoint, read_checkpoint(args.checkpoint)["meta"]["identity"], identity_of(cfg))
    work_dir = args.work_dir or args.checkpoint.resolve().parent / "test"
    return run(assemble(cfg, work_dir=work_dir, load_from=args.checkpoint, launcher=args.launcher), train=False)


def fit(assembled: Config, *, train: bool = True) -> tuple[ZooRunner, dict[str, float]]:
    """Train and evaluate.

    Args:
        train: whether to train before evaluating; a tuner that trains nothing is only evaluated.

    Returns:
        The runner, and the metrics; none for a config without a protocol, which has nothing to evaluate.
    """
    runner = ZooRunner.from_cfg(assembled)
    count, identity = runner.vl_model.count(), runner.identity["config"]
    runner.logger.info(
        f"{identity['tuner']['type']} on {identity['backbone']['type']}: {count.trainable:,} of {count.total:,} "
        f"parameters are trained; work dir {runner.work_dir}"
    )
    if train and runner.vl_model.roles:
        runner.train()
    return runner, {} if assembled["test_cfg"] is None else runner.test()


def run(assembled: Config, *, train: bool = True) -> Record | None:
    """Train and evaluate, write the record and print it.

    Returns:
        The record; None where nothing was evaluated.
    """
    runner, metrics = fit(assembled, train=train)
    if not metrics:
        return None
    record = make_record(runner, metrics)
    if runner.rank == 0:
        path = Path(runner.work_dir) / RECORD_NAME
        write_record(path, record)
        print_record(record, path)
    return record


def main(parse: Callable[[Sequence[str] | None], argparse.Namespace], act: Callable[[argparse.Namespace], Any]) -> int:
    """Run a tool, or print the config it would run."""
    args = parse(None)

    def run_tool() -> None:
        if args.print_config:
            print(assemble(checked(args.config, overrides_of(args)), work_dir=args.work_dir).pretty_text)
        else:
            act(args)

    again = ""
    if hasattr(args, "resume"):
        command = shlex.join(["python", *sys.argv, *([] if args.resume else ["--resume"])])
        again = f"To go on after the last complete epoch:\n  {command}"
    return report_faults(run_tool, again=again)
