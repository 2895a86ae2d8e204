"""Everything that is wrong with a config, at once, before a weight is loaded or a file is written."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.config import Config

from petl_zoo.backbones.checkpoints import inspect_checkpoint
from petl_zoo.model import VLModel

from .config import FREE_KEYS, SECTIONS, runtime_of
from .faults import ConfigError, Fault, did_you_mean
from .identity import COMPONENTS, complete
from .parts import split
from .schedule import Runtime, Schedule
from .signatures import component_faults, dataclass_faults, field_names

DATACLASSES = {"schedule": Schedule, "runtime": Runtime}
REQUIRED = tuple(section for section in SECTIONS if section not in ("protocol", "runtime"))


def validate(cfg: Config, overrides: Mapping[str, Any] | None = None) -> list[Fault]:
    """Find all faults of a config; none means that the run can start.

    Args:
        cfg: the flat config, with the command line merged in.
        overrides: what the command line merged in, to say so beside the faults it caused.
    """
    faults = list(_section_faults(cfg))
    for section, registry in COMPONENTS.items():
        if isinstance(cfg.get(section), Mapping):
            faults += component_faults(section, cfg[section], registry)
    for section, description in DATACLASSES.items():
        if isinstance(cfg.get(section), Mapping):
            faults += dataclass_faults(section, cfg[section], description)
    broken = {fault.key.split(".")[0] for fault in faults}
    parts = None
    if not broken & {"dataset", "protocol", "runtime"} and "dataset" in cfg:
        try:
            parts = split(cfg["dataset"], cfg.get("protocol"), runtime_of(cfg).seed)
        except ConfigError as error:
            faults += error.faults
    if not broken & {"backbone", "tuner", "head"} and {"backbone", "tuner", "head"} <= set(cfg):
        faults += _model_faults(cfg, parts)
        if "dataset" in cfg and "dataset" not in broken:
            faults += _size_faults(cfg)
    return [_from_command_line(fault, overrides or {}) for fault in faults]


def _section_faults(cfg: Config) -> Iterator[Fault]:
    known = (*SECTIONS, *FREE_KEYS)
    for key in cfg:
        if key not in known:
            inner = next((f"{s}.{key}" for s, d in DATACLASSES.items() if key in field_names(d)), None)
            hint = f"; did you mean {inner!r}?" if inner else did_you_mean(key, known)
            yield Fault(key, f"no such key; there are {', '.join(known)}{hint}")
    for section in REQUIRED:
        if section not in cfg:
            yield Fault(section, f"missing; import configs/_base_/{section}s, or set {section} = dict(type=...)")
    for section in SECTIONS:
        if section in cfg and not isinstance(cfg[section], Mapping):
            yield Fault(section, f"{cfg[section]!r} is not allowed; give a dict, or set one of its keys: {section}.KEY")


def _model_faults(cfg: Config, parts: Any) -> Iterator[Fault]:
    """Build the model without storage, which finds what does not fit together; read the weights and the texts."""
    classes = parts.train.classes.names if parts is not None else ("object",)
    bare = {**cfg["backbone"], "checkpoint": None}
    try:
        with torch.device("meta"):
            model = VLModel(bare, dict(cfg["tuner"]), dict(cfg["head"]), classes=classes)
    except (ValueError, TypeError, AssertionError) as error:
        yield Fault(_blamed(str(error), cfg), str(error))
        return
    source = cfg["backbone"].get("checkpoint")
    if source is not None:
        problems = inspect_checkpoint(dict(cfg["backbone"]), source)
        yield from (Fault("backbone.checkpoint", problem) for problem in problems)
    if parts is None:
        return
    model.backbone.checkpoint = source
    try:
        for part in (parts.train, *parts.test.values()):
            template = model.tuner.template
            for text in (template,) if template is not None else part.classes.templates:
                model.text(text, part.classes.names)
    except (ValueError, OSError) as error:
        yield Fault("backbone.tokenizer" if "tokenizer" in str(error) else "tuner", str(error))


def _size_faults(cfg: Config) -> Iterator[Fault]:
    backbone, dataset = (complete(cfg[section], COMPONENTS[section]) for section in ("backbone", "dataset"))
    for key in ("image_size", "size"):
        if key in dataset and dataset[key] != backbone.get("image_size", dataset[key]):
            yield Fault(
                f"dataset.{key}",
                f"{dataset[key]} pixels, but backbone.image_size is {backbone['image_size']}: make them equal",
            )


def _blamed(message: str, cfg: Config) -> str:
    """The key that a constructor's message begins with, if it is one of a component's options."""
    word = message.split(" ", 1)[0].rstrip(":")
    for section in ("tuner", "backbone", "head"):
        options = inspect.signature(COMPONENTS[section].get(cfg[section]["type"])).parameters
        if word in options:
            return f"{section}.{word}"
    return "tuner"


def _from_command_line(fault: Fault, overrides: Mapping[str, Any]) -> Fault:
    given = fault.key in overrides
    return Fault(fault.key, f"{fault.problem} (from --cfg-options)") if given else fault
