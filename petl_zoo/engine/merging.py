"""Read a config file and merge the command line into it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.utils import import_modules_from_strings

from .faults import ConfigError, Fault, did_you_mean


def load(path: Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a config file, merge options into it, and import what it names in ``custom_imports``.

    Raises:
        ConfigError: there is no such file, it cannot be read, or a module cannot be imported.
    """
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path("configs")
        near = [file.as_posix() for file in sorted(folder.rglob("*.py")) if not file.name.startswith("_")]
        hint = did_you_mean(path.as_posix(), near)
        raise ConfigError([Fault(str(path), f"there is no such config file{hint}")])
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # A config is a program: it can fail in every way.
        raise ConfigError([Fault(str(path), f"it cannot be read: {type(error).__name__}: {error}")]) from error
    for name in cfg._imported_names & set(cfg):  # read_base itself, and whatever else a file imports.
        cfg._cfg_dict.pop(name)
    merge(cfg, overrides or {})
    if "custom_imports" in cfg:
        try:
            import_modules_from_strings(**cfg["custom_imports"])
        except Exception as error:  # Importing runs a third party's code.
            raise ConfigError([Fault("custom_imports", f"{type(error).__name__}: {error}")]) from error
    return cfg


def merge(cfg: Config, overrides: Mapping[str, Any]) -> None:
    """Merge ``section.key=value`` options of the command line into a config.

    Another ``type`` for a section replaces the section: the options of the old component mean nothing to the new one.

    Raises:
        ConfigError: an option goes into something that has no keys.
    """
    for key, value in overrides.items():
        section, _, name = key.partition(".")
        if name == "type" and isinstance(cfg.get(section), Mapping) and cfg[section].get("type") != value:
            cfg[section] = {"type": value}
    try:
        cfg.merge_from_dict(dict(overrides))
    except (TypeError, KeyError, AttributeError) as error:
        keys = ", ".join(overrides)
        raise ConfigError([Fault("--cfg-options", f"{keys} cannot be merged: {error}")]) from error
