"""Read a config file and merge the command line into it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.utils import import_modules_from_strings

from .faults import ConfigError, Fault, did_you_mean


def load(path: Path) -> Config:
    """Read a config file and import what it names in ``custom_imports``.

    Raises:
        ConfigError: there is no such file, or it cannot be read.
    """
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path("configs")
        near = [file.as_posix() for file in sorted(folder.rglob("*.py")) if not file.name.startswith("_")]
        raise ConfigError([Fault(str(path), f"there is no such config file{did_you_mean(path.as_posix(), near)}")])
    try:
        cfg = Config.fromfile(path)
        if "custom_imports" in cfg:
            import_modules_from_strings(**cfg["custom_imports"])
    except Exception as error:  # A config is a program: it can fail in every way.
        raise ConfigError([Fault(str(path), f"it cannot be read: {type(error).__name__}: {error}")]) from error
    return cfg


def merge(cfg: Config, overrides: Mapping[str, Any]) -> None:
    """Merge ``section.key=value`` options of the command line into a config.

    Another ``type`` for a section replaces the section: the options of the old component mean nothing to the new one.
    """
    for key, value in overrides.items():
        section, _, name = key.partition(".")
        if name == "type" and isinstance(cfg.get(section), dict) and cfg[section].get("type") != value:
            cfg[section] = {"type": value, "_delete_": True}
            del cfg[section]["_delete_"]
    cfg.merge_from_dict(dict(overrides))
