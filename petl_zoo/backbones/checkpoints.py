"""Pretrained weights: give a file's tensors our names, and put them into a backbone.

A source is a file, a folder as Hugging Face writes it, ``zoo:NAME`` for weights that ship with the project,
or a hub id ``org/name``. Every fault of a file is found before a weight is written, and told in one error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from registry import BACKBONES

from .base import Backbone
from .embeddings import resize_positions
from .formats import FAMILIES, Family, Format, recognise
from .sources import WEIGHT_FILES, CheckpointError, listed, locate, read_state

__all__ = ["CheckpointError", "Loaded", "inspect_checkpoint", "load_checkpoint"]


@dataclass(frozen=True)
class Loaded:
    """What was loaded.

    Attributes:
        source: as the config has it.
        path: the file that was read; its folder, if the weights are in shards.
        format: whose names the file holds.
        sha256: of the file's bytes (of all shards in the order of their names), as hex digits.
        tensors: number of the backbone's tensors that were set.
    """

    source: str
    path: Path
    format: str
    sha256: str
    tensors: int


@dataclass(frozen=True)
class _Prepared:
    state: dict[str, Tensor]
    format: Format
    files: list[Path]


def load_checkpoint(backbone: Backbone, source: str | Path, *, allow_missing: Sequence[str] = ()) -> Loaded:
    """Load pretrained weights into a backbone, cast to the dtype of its parameters.

    Position tables of the image are resized where the backbone's image size is another. A backbone on the
    meta device is given the tensors (on the CPU) in place of its own, which saves initialising it.

    Args:
        source: file, Hugging Face folder, ``zoo:NAME`` or hub id.
        allow_missing: shell patterns of our names that the file need not hold.

    Raises:
        CheckpointError: the weights cannot be found or read, or are not this backbone's; nothing was loaded.
    """
    prepared = _prepare(backbone, str(source), allow_missing)
    own = backbone.state_dict()
    state, empty = prepared.state, any(tensor.is_meta for tensor in own.values())
    if empty:
        state = {name: tensor.to(own[name].dtype, copy=True).contiguous() for name, tensor in state.items()}
    backbone.load_state_dict(state, strict=False, assign=empty)
    path = prepared.files[0] if len(prepared.files) == 1 else prepared.files[0].parent
    return Loaded(str(source), path, prepared.format.name, _sha256(prepared.files), len(state))


def inspect_checkpoint(backbone: Backbone | Mapping[str, Any], source: str | Path) -> list[str]:
    """Say what would keep weights from being loaded, without building the backbone or changing it.

    Args:
        backbone: a backbone, or the config of one (``type`` and keywords), which is built without memory.
        source: as ``load_checkpoint`` takes it.

    Returns:
        The faults, a paragraph each; an empty list if there are none.
    """
    if isinstance(backbone, Backbone):
        built = backbone
    else:
        with torch.device("meta"):
            built = BACKBONES.build(dict(backbone))
    try:
        _prepare(built, str(source))
    except CheckpointError as error:
        return error.faults
    return []


def _prepare(backbone: Backbone, source: str, allow_missing: Sequence[str] = ()) -> _Prepared:
    """Read and convert a source, and compare it with the backbone; the tensors stay views of the file's."""
    kinds = [kind.__name__ for kind in type(backbone).__mro__ if kind.__name__ in FAMILIES]
    if not kinds:
        raise CheckpointError(
            f"{source}: no checkpoint format of {type(backbone).__name__} is known; known are those of "
            f"{listed(FAMILIES)}. Add a Family to petl_zoo.backbones.formats.FAMILIES."
        )
    family = FAMILIES[kinds[0]]
    files = locate(source)
    state: dict[str, Tensor] = {}
    for file in files:
        state.update(read_state(file))
    fmt = family.detect(state)
    if fmt is None:
        raise CheckpointError(
            f"{source}: no {family.name} checkpoint, but {recognise(state)}; its {len(state)} names begin "
            f"with {listed(list(state)[:3])}. Allowed names are those of "
            f"{listed(f.name for f in family.formats)}. Set backbone.checkpoint to {family.name} weights, or "
            "choose the backbone that the file belongs to."
        )
    converted, unknown = fmt.convert(state)
    faults = [*_size_faults(backbone, family, converted, source), *_config_faults(backbone, files[0])]
    if not faults:
        faults = _name_faults(backbone, family, converted, unknown, source, allow_missing)
    if faults:
        raise CheckpointError(*faults)
    return _Prepared(converted, fmt, files)


def _size_faults(backbone: Backbone, family: Family, state: dict[str, Tensor], source: str) -> list[str]:
    own = backbone.state_dict()
    wanted = family.sizes(own)
    try:
        held = family.sizes(state)
    except (KeyError, IndexError, ValueError):
        return []  # A tensor is missing or has another number of axes: the names tell.
    for stream in backbone.streams:
        wanted[f"{stream}_heads"] = next(layer.spec.heads for _, layer in backbone.layers(stream))
    # The image size is no fault by itself: positions are resized.
    differ = [key for key in held if key != "image_size" and held[key] != wanted[key]]
    if not differ:
        return []
    release, base = family.release(held), family.release(wanted)
    if release:
        mend = f"use configs/_base_/backbones/{family.releases[release].config}.py"
    else:
        mend = "set " + ", ".join(f"backbone.{key}={held[key]}" for key in differ)
    label = f"{family.name} {release}" if release else family.name
    theirs, ours = (", ".join(f"{key} {sizes[key]}" for key in differ) for sizes in (held, wanted))
    return [
        f"{source}: this is a {label} checkpoint ({theirs}), but the config says {base or 'otherwise'} "
        f"({ours}): {mend}, or set backbone.checkpoint to weights of the config's sizes."
    ]


def _config_faults(backbone: Backbone, path: Path) -> list[str]:
    """Compare what shapes do not tell with the ``config.json`` that Hugging Face puts beside its weights."""
    beside = path.parent / "config.json"
    try:
        config = json.loads(beside.read_text()) if path.name in WEIGHT_FILES else {}
    except (OSError, ValueError):
        return []
    faults = []
    for stream in backbone.streams:
        layer = next(layer for _, layer in backbone.layers(stream))
        theirs = config.get(f"{stream}_config") or {}
        for key, ours, value in (
            ("num_attention_heads", f"backbone.{stream}_heads", layer.spec.heads),
            ("hidden_act", "backbone.act", layer.spec.act),
        ):
            if theirs.get(key, value) != value:
                faults.append(
                    f"{path}: its config.json says {stream}_config.{key} = {theirs[key]!r}, but {ours} is "
                    f"{value!r}: the weights would load and compute nonsense. Set {ours}={theirs[key]}."
                )
    return faults


def _name_faults(
    backbone: Backbone,
    family: Family,
    state: dict[str, Tensor],
    unknown: list[str],
    source: str,
    allow_missing: Sequence[str],
) -> list[str]:
    """Compare names and shapes; on the way, bring position tables and axes of length one to our shapes."""
    own = backbone.state_dict()
    shapes = []
    for name in own.keys() & state.keys():
        tensor, shape = state[name], own[name].shape
        if tensor.dim() > len(shape):
            tensor = tensor.squeeze()  # BLIP's (1, 1, D) class token, open_clip's (1,) scale
        if name in family.positions and tensor.shape != shape and tensor.dim() == 2:
            leading = family.positions[name]
            grid = round((shape[0] - leading) ** 0.5)
            try:
                tensor = resize_positions(tensor, grid, leading)
            except ValueError as error:
                shapes.append(f"{name} ({error})")
                continue
        if tensor.shape == shape:
            state[name] = tensor
        else:
            shapes.append(f"{name} {tuple(tensor.shape)} instead of {tuple(shape)}")
    missing = [name for name in own if name not in state]
    found = {
        "missing": [name for name in missing if not any(fnmatchcase(name, p) for p in allow_missing)],
        "unexpected": unknown + [name for name in state if name not in own],
        "of another shape": sorted(shapes),
    }
    if not any(found.values()):
        return []
    told = "; ".join(f"{label}: {listed(names, 20)}" for label, names in found.items() if names)
    return [
        f"{source}: its tensors are not those of this {family.name}; {told}. Set backbone.checkpoint to "
        "complete weights of this backbone, or change the backbone's sizes to the file's."
    ]


def _sha256(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
