"""Checkpoints of a tuner: what is in them, and how they reach the disk whole or not at all."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .faults import RunError

FORMAT = 1
PATTERN = re.compile(r"epoch_(\d+)\.pth")


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint through a file of another name, so that no reader, and no kill, ever sees half of it.

    Raises:
        RunError: the disk is full or the folder cannot be written; an older file of the name is intact.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            torch.save(dict(content), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as a RuntimeError.
        raise RunError(
            f"the checkpoint {path} could not be written ({error}); what was there before is intact. "
            "Free some space or choose another --work-dir, then go on with --resume"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; only tensors and plain values are ever unpickled.

    Raises:
        RunError: the file is missing, broken, or no checkpoint of this project.
    """
    if not path.is_file():
        raise RunError(f"checkpoint: there is no file {path}; a run writes epoch_N.pth into its work dir")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile, KeyError) as error:
        reason = str(error).split("\n", 1)[0]
        raise RunError(f"checkpoint: {path} is broken or no checkpoint ({reason}); use another file") from error
    if not isinstance(content, dict) or content.get("meta", {}).get("format") != FORMAT:
        raise RunError(
            f"checkpoint: {path} is not a checkpoint of a tuner as tools/train.py writes it; the weights of a backbone "
            "belong to the config's backbone.checkpoint"
        )
    return content


def epoch_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a work dir, newest first."""
    found = {path: PATTERN.fullmatch(path.name) for path in folder.glob("epoch_*.pth")}
    numbered = [(int(match[1]), path) for path, match in found.items() if match]
    return [path for _, path in sorted(numbered, reverse=True)]


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that can be read, or None."""
    for path in epoch_checkpoints(folder):
        with contextlib.suppress(RunError):
            read_checkpoint(path)
            return path
    return None
