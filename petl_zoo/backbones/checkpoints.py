"""Pretrained weights: give a file's tensors our names, and put them into a backbone.

A source is a file, a folder as Hugging Face writes it, ``zoo:NAME`` for weights that ship with the project,
or a hub id ``org/name``. Every fault of a file is found before a weight is written, and told in one error.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

import torch
from mmengine.logging import MMLogger
from torch import Tensor

from registry import BACKBONES

from .base import Backbone
from .embeddings import resize_positions
from .formats import FAMILIES, Family, Format, recognise
from .sources import WEIGHT_FILES, CheckpointError, listed, locate, read_state
from .transformer import LayerSpec, Tower

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
        missing: those that the file does not hold, by our names: they keep their initialisation.
        seeded: those that the file does not hold and that start from another part of it, as a decoder does.
    """

    source: str
    path: Path
    format: str
    sha256: str
    tensors: int
    missing: tuple[str, ...] = ()
    seeded: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Prepared:
    state: dict[str, Tensor]
    format: Format
    files: list[Path]
    missing: list[str]
    absent: list[str]  # the same, by parts
    seeds: dict[str, str]


def load_checkpoint(backbone: Backbone, source: str | Path) -> Loaded:
    """Load pretrained weights into a backbone, cast to the dtype of its parameters.

    Position tables of the image are resized where the backbone's image size is another. A backbone on the
    meta device is given the tensors (on the CPU) in place of its own, which saves initialising it.
    Heads and decoders that the file lacks as a whole keep their initialisation, with a warning.

    Args:
        source: file, Hugging Face folder, ``zoo:NAME`` or hub id.

    Raises:
        CheckpointError: the weights cannot be found or read, or are not this backbone's; nothing was loaded.
    """
    prepared = _prepare(backbone, str(source))
    own = backbone.state_dict()
    state, empty = prepared.state, any(tensor.is_meta for tensor in own.values())
    if empty and prepared.missing:
        raise CheckpointError(
            f"{source}: the file holds no {listed(prepared.absent)}, and a backbone on the meta device has no "
            "initialisation to keep. Build it on the CPU."
        )
    if empty:
        state = {name: tensor.to(own[name].dtype, copy=True).contiguous() for name, tensor in state.items()}
    backbone.load_state_dict(state, strict=False, assign=empty)
    logger = MMLogger.get_current_instance()
    if prepared.seeds:
        pairs = dict.fromkeys(f"{a.split('.')[0]} from {b.split('.')[0]}" for a, b in prepared.seeds.items())
        logger.info(f"{source}: parts that the file does not hold start from others: {', '.join(pairs)}.")
    if prepared.missing:
        logger.warning(
            f"{source}: the file ({prepared.format.name}) holds no {listed(prepared.absent, 20)}; left at the "
            "initialisation. Train what you use of it, or set backbone.checkpoint to weights that hold it."
        )
    path = prepared.files[0] if len(prepared.files) == 1 else prepared.files[0].parent
    return Loaded(
        source=str(source),
        path=path,
        format=prepared.format.name,
        sha256=_sha256(prepared.files),
        tensors=len(state),
        missing=tuple(prepared.missing),
        seeded=tuple(prepared.seeds),
    )


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


def _prepare(backbone: Backbone, source: str) -> _Prepared:
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
    faults = [*_size_faults(backbone, family, converted, source), *_config_faults(backbone, family, files[0])]
    if faults:
        raise CheckpointError(*faults)
    full, shared = backbone.state_dict(), _shared(backbone)
    own = {name: tensor for name, tensor in full.items() if name not in shared}
    absent = [p for p in family.parts if not any(fnmatchcase(name, p) for name in converted)]
    seeds = family.seeds(own, converted)
    converted |= {ours: converted[theirs] for ours, theirs in seeds.items()}
    for pattern in family.spare:
        if not any(fnmatchcase(name, pattern) for name in full):
            converted = {name: tensor for name, tensor in converted.items() if not fnmatchcase(name, pattern)}
    faults = [*_decoder_faults(full, converted, source), *_merge(shared, converted, source)]
    missing = [name for name in own if name not in converted]
    if not faults:
        allowed = (*absent, *backbone.allow_missing)
        needed = [name for name in missing if not any(fnmatchcase(name, pattern) for pattern in allowed)]
        faults = _name_faults(own, family, converted, {"missing": needed, "unexpected": unknown}, source)
    if faults:
        raise CheckpointError(*faults)
    return _Prepared(converted, fmt, files, missing, _parts(missing, own), seeds)


def _shared(backbone: Backbone) -> dict[str, str]:
    """Parameters that a backbone holds under several names: each further name, with the first."""
    first = {id(parameter): name for name, parameter in backbone.named_parameters()}
    every = backbone.named_parameters(remove_duplicate=False)
    return {name: first[id(p)] for name, p in every if first[id(p)] != name}


def _merge(shared: Mapping[str, str], state: dict[str, Tensor], source: str) -> list[str]:
    """Bring what the backbone shares under its first name; tell what the file holds as different tensors."""
    differ = []
    for name, first in shared.items():
        if name in state:
            tensor = state.pop(name)
            if not torch.equal(state.setdefault(first, tensor).float(), tensor.float()):
                differ.append(name)
    if not differ:
        return []
    return [
        f"{source}: its decoder has weights of its own ({listed(differ, 4)}), which this backbone shares with its text "
        "tower. Set backbone.tied=False."
    ]


def _decoder_faults(own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> list[str]:
    """Compare the widths of what the decoders attend to, which is an option and no size."""
    name = "decoder.layers.0.cross.k.weight"
    if name not in own or name not in state or state[name].dim() != 2:
        return []
    wanted, held = own[name].shape[1], state[name].shape[1]
    if wanted == held:
        return []
    widths = {"image": own["vision_proj.weight"].shape[1], "text": own["text_proj.weight"].shape[1]}
    mend = next((f"Set backbone.decoder={kind!r}" for kind, width in widths.items() if width == held), None)
    return [
        f"{source}: its decoder attends to states of width {held}, but this backbone's to width {wanted} "
        f"(the image's states have {widths['image']}, the text's {widths['text']}). "
        f"{mend or 'Set backbone.checkpoint to weights with such a decoder'}, or backbone.decoder=None to leave it out."
    ]


def _parts(names: Sequence[str], own: Iterable[str]) -> list[str]:
    """Name tensors, and a part whose tensors are all among them by its own name."""
    partly = {name.split(".")[0] for name in set(own) - set(names)}
    heads = ((name, name.split(".")[0]) for name in names)
    return list(dict.fromkeys(name if head in partly else head for name, head in heads))


def _size_faults(backbone: Backbone, family: Family, state: dict[str, Tensor], source: str) -> list[str]:
    wanted = family.sizes(backbone.state_dict())
    try:
        held = family.sizes(state)
    except (KeyError, IndexError, ValueError):
        return []  # A tensor is missing or has another number of axes: the names tell.
    for tower, key in family.heads.items():
        wanted[key] = _first_layer(backbone, tower).heads
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


def _first_layer(backbone: Backbone, tower: str) -> LayerSpec:
    return cast(Tower, backbone.get_submodule(tower)).layer(0).spec


def _config_faults(backbone: Backbone, family: Family, path: Path) -> list[str]:
    """Compare what shapes do not tell with the ``config.json`` that Hugging Face puts beside its weights."""
    beside = path.parent / "config.json"
    try:
        config = json.loads(beside.read_text()) if path.name in WEIGHT_FILES else {}
    except (OSError, ValueError):
        return []
    faults = []
    options = inspect.signature(type(backbone)).parameters
    for tower, heads in family.heads.items():
        spec = _first_layer(backbone, tower)
        theirs = config.get(f"{tower}_config") or {}
        for key, option, value in (("num_attention_heads", heads, spec.heads), ("hidden_act", "act", spec.act)):
            if theirs.get(key, value) == value:
                continue
            ours = f"backbone.{option}" if option in options else f"{type(backbone).__name__}'s {option}"
            mend = f"Set {ours}={theirs[key]}" if option in options else "Set backbone.checkpoint to other weights"
            faults.append(
                f"{path}: its config.json says {tower}_config.{key} = {theirs[key]!r}, but {ours} is "
                f"{value!r}: the weights would load and compute nonsense. {mend}."
            )
    return faults


def _name_faults(
    own: Mapping[str, Tensor], family: Family, state: dict[str, Tensor], found: dict[str, list[str]], source: str
) -> list[str]:
    """Compare names and shapes; on the way, bring position tables and axes of length one to our shapes."""
    shapes = []
    for name in own.keys() & state.keys():
        tensor, shape = state[name], own[name].shape
        if tensor.dim() > len(shape):
            tensor = tensor.squeeze()  # open_clip's (1,) scale
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
    unexpected = found["unexpected"] + [name for name in state if name not in own]
    found = {**found, "unexpected": unexpected, "of another shape": sorted(shapes)}
    if not any(found.values()):
        return []
    told = "; ".join(f"{label}: {listed(names, 20)}" for label, names in found.items() if names)
    allow = " What may be missing can be listed in backbone.allow_missing." if found["missing"] else ""
    return [
        f"{source}: its tensors are not those of this {family.name}; {told}. Set backbone.checkpoint to "
        f"complete weights of this backbone, or change the backbone's sizes to the file's.{allow}"
    ]


def _sha256(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
