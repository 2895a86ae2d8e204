"""What a trained tuner becomes outside its run: merged weights, constant prompts, an adapter of the peft library."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from mmengine.config import Config
from rich.console import Console
from torch import Tensor

from petl_zoo.backbones import Backbone
from petl_zoo.backbones.sources import locate
from petl_zoo.backbones.tokenizers import FILES
from petl_zoo.model import VLModel
from petl_zoo.tuners import Tuner
from petl_zoo.tuners.fixed import constant_plan, to_bytes
from petl_zoo.tuners.lora import LoRA
from petl_zoo.tuners.peft_format import read_adapter, write_adapter
from petl_zoo.tuners.stack import Stack, overrides
from registry import BACKBONES

from .checkpoint import FORMAT, read_checkpoint, write_checkpoint
from .config import class_names, identity_of, runtime_of
from .faults import RunError
from .identity import check_same_tuner, config_hash
from .launch import checked
from .parts import split

MERGED, PROMPTS = "model.safetensors", "prompts.safetensors"
COMPARED = 8  # Images, and texts, whose outputs before and after are compared.


def merge(args: argparse.Namespace) -> dict[str, float]:
    """Write a trained tuner as weights of the backbone, as constant prompts, or, of a stack, as both.

    What was written is loaded again and compared with the tuner.

    Returns:
        The largest absolute difference of each output.

    Raises:
        RunError: it can be neither, the checkpoint is another config's, or the folder is taken; nothing was written.
    """
    cfg = checked(args.config, args.cfg_options)
    with told():
        model = trained_model(cfg, args.checkpoint)
        fold, keep = partition(model.tuner, model.backbone, plain_names(cfg))
        inputs = real_inputs(cfg)
        before = outputs(model, *inputs)
        with drafted(args.out) as draft:
            if keep:
                (draft / PROMPTS).write_bytes(to_bytes(model.tuner.plan(), model.tuner.template))
            for member in fold.values():
                if member.mergeable:
                    member.merge()
            if fold:
                write_backbone(cfg, model, draft)
            after = outputs(exported_model(cfg, draft), *inputs)
            errors = {name: float((after[name] - value).abs().max()) for name, value in before.items()}
            if not fold and any(errors.values()):
                raise RunError(
                    f"{type(model.tuner).__name__} does more than its plan says: with constant prompts the outputs "
                    f"differ by up to {max(errors.values()):.2g}, so nothing was written"
                )
    report(args.out, errors, model.backbone.like.dtype)
    return errors


def export_adapter(args: argparse.Namespace) -> None:
    """Write a trained LoRA or DoRA as a folder of the peft library.

    Raises:
        RunError: it is another tuner, or on a backbone that transformers has not; nothing was written.
    """
    cfg = checked(args.config, args.cfg_options)
    with told():
        model = trained_model(cfg, args.checkpoint)
        tuner = low_rank(model.tuner)
        with drafted(args.out) as draft:
            write_adapter(draft, tuner, model.backbone)
    Console().print(f"Wrote {args.out}", markup=False, highlight=False, soft_wrap=True)


def import_adapter(args: argparse.Namespace) -> None:
    """Write a checkpoint of a config's LoRA or DoRA from a folder of the peft library.

    Raises:
        RunError: the adapter is broken, unsupported or of other options, or the file cannot be written.
    """
    cfg = checked(args.config, args.cfg_options)
    with told():
        model = built(cfg)
        state = read_adapter(args.adapter, low_rank(model.tuner), model.backbone)
        model.load_trained_state(state)  # Refuses what does not fit.
    identity = identity_of(cfg)
    meta = {"format": FORMAT, "epoch": 0, "iter": 0, "seed": identity["seed"]}
    content = {"meta": {**meta, "identity": {**identity, "hash": config_hash(identity)}}, "state_dict": state}
    if kept := model.kept_state():
        content["buffers"] = kept
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(args.out, content)
    Console().print(
        f"Wrote {args.out}. To evaluate it: python tools/test.py {args.config} {args.out}, with the same --cfg-options",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


# The model -----------------------------------------------------------------------------------------------------------


@contextmanager
def told() -> Iterator[None]:
    """Turn what the parts raise over files and options into the message of a tool."""
    try:
        yield
    except ValueError as error:
        raise error if isinstance(error, RunError) else RunError(str(error)) from error


def built(cfg: Config) -> VLModel:
    """A config's model, its tuner untrained."""
    parts = split(dict(cfg["dataset"]), cfg.get("protocol"), runtime_of(cfg).seed)
    model = VLModel(dict(cfg["backbone"]), dict(cfg["tuner"]), dict(cfg["head"]), class_names(parts.train))
    return model.eval()


def trained_model(cfg: Config, path: Path) -> VLModel:
    """A config's model with a checkpoint's state.

    Raises:
        RunError: the checkpoint cannot be read, or is of another tuner, other options or another backbone.
    """
    content = read_checkpoint(path)
    check_same_tuner(path, content["meta"]["identity"], identity_of(cfg))
    model = built(cfg)
    head = [name for name in model.roles if name.startswith("head.")]
    if head:
        raise RunError(f"{type(model.head).__name__} has trained parameters of its own ({head[0]}), which stay behind")
    model.load_trained_state(content["state_dict"])
    model.load_kept_state(content.get("buffers", {}))
    return model


def low_rank(tuner: Tuner) -> LoRA:
    """The tuner, if peft has a format for it."""
    if not isinstance(tuner, LoRA):
        raise RunError(f"tuner.type: peft's format is for LoRA and DoRA, and this is {type(tuner).__name__}")
    return tuner


def plain_names(cfg: Config) -> list[str]:
    """The names of the bare backbone's tensors."""
    with torch.device("meta"):
        backbone: Backbone = BACKBONES.build({**cfg["backbone"], "checkpoint": None})
    return list(backbone.state_dict())


def partition(tuner: Tuner, backbone: Backbone, plain: list[str]) -> tuple[dict[str, Tuner], dict[str, Tuner]]:
    """Which members of a tuner, itself where it is no stack, become weights, and which constants.

    Raises:
        ValueError: one can be neither.
    """
    fold: dict[str, Tuner] = {}
    keep: dict[str, Tuner] = {}
    for name, member in (tuner.each() if isinstance(tuner, Stack) else {"": tuner}).items():
        weights = {f"backbone.{parameter}" for parameter in plain}
        acts = [method for method in ("plan", "readout", "logits") if overrides(member, method)]
        if not acts and (member.mergeable or set(member.trained(backbone)) <= weights):
            fold[name] = member
            continue
        if not acts:
            member.merge()  # Says why it cannot.
        constant_plan(member, backbone)  # Likewise.
        keep[name] = member
    return fold, keep


def real_inputs(cfg: Config) -> tuple[Tensor, list[str]]:
    """A few images of a test set, (N, 3, H, W), and as many texts: class names or captions."""
    parts = split(dict(cfg["dataset"]), cfg.get("protocol"), runtime_of(cfg).seed)
    data: Any = next(iter(parts.test.values()), parts.train)
    samples = [data[i] for i in range(min(COMPARED, len(data)))]
    first = samples[0]
    if "classes" in first:
        texts = list(first["classes"].names)
    else:
        texts = list(first["gallery"].captions) if "gallery" in first else [sample["captions"] for sample in samples]
    count = min(len(samples), len(texts))
    return torch.stack([sample["images"] for sample in samples[:count]]), texts[:count]


@torch.no_grad()
def outputs(model: VLModel, images: Tensor, texts: list[str]) -> dict[str, Tensor]:
    """Normalised features of images and texts and, where the backbone has them, matching logits of pairs.

    Shape:
        images: (N, 3, H, W), with N texts.
    """
    backbone, plan, text = model.backbone, model.tuner.plan(), model.caption_text(texts)
    found = {
        "image features": F.normalize(backbone.encode_image(images, plan.of("vision")), dim=-1),
        "text features": F.normalize(backbone.encode_text(text, plan.of("text")), dim=-1),
    }
    if backbone.matches and "fusion" in backbone.streams:
        states = backbone.text_states(text, plan.of("text"))
        context = backbone.context(backbone.image_states(images, plan.of("vision")))
        found["matching logits"] = backbone.match(backbone.fuse(text, states, context, plan))
    return found


# The files -----------------------------------------------------------------------------------------------------------


@contextmanager
def drafted(out: Path) -> Iterator[Path]:
    """A folder to write into that becomes ``out`` when all is there, and vanishes if anything fails.

    Raises:
        RunError: ``out`` exists already.
    """
    if out.exists():
        raise RunError(f"--out: {out} exists already: choose a folder that does not")
    draft = out.with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
    draft.mkdir(parents=True)
    try:
        yield draft
        os.replace(draft, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_backbone(cfg: Config, model: VLModel, folder: Path) -> None:
    """Write a backbone's weights under their plain names and, where it was found beside the old ones, its tokenizer."""
    state = model.backbone.state_dict()
    weights = {name: state[name].clone().contiguous() for name in plain_names(cfg)}
    tuner = {"type": cfg["tuner"]["type"], "config_hash": config_hash(identity_of(cfg))}
    metadata = {"petl_zoo": json.dumps({"family": cfg["backbone"]["type"], "merged": tuner})}
    safetensors.torch.save_file(weights, folder / MERGED, metadata)
    checkpoint = cfg["backbone"].get("checkpoint")
    if checkpoint is not None and cfg["backbone"].get("tokenizer") is None:
        beside = locate(checkpoint)[0].parent
        for path in (beside / name for name in FILES):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)


def exported_model(cfg: Config, folder: Path) -> VLModel:
    """The model that the written files make."""
    backbone, tuner = dict(cfg["backbone"]), {"type": "NoTuner"}
    if (folder / MERGED).is_file():
        backbone["checkpoint"] = str(folder)
    if (folder / PROMPTS).is_file():
        tuner = {"type": "FixedPrompts", "file": str(folder / PROMPTS)}
    return VLModel(backbone, tuner, dict(cfg["head"])).eval()


def report(out: Path, errors: Mapping[str, float], dtype: torch.dtype) -> None:
    """Print what was written, how far it is from the tuner, and how to use it."""
    options = []
    if (out / MERGED).is_file():
        options.append(f"backbone.checkpoint={out}")
    file = f" tuner.file={out / PROMPTS}" if (out / PROMPTS).is_file() else ""
    options.append(f"tuner.type=FixedPrompts{file}" if file else "tuner.type=NoTuner")
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"Wrote {', '.join(sorted(path.name for path in out.iterdir()))} to {out}", markup=False)
    console.print(f"Largest error, computed in {str(dtype).removeprefix('torch.')}:")
    for name, error in errors.items():
        console.print(f"  {name:16} {error:.2g}" + (" (bit for bit)" if error == 0 else ""))
    console.print(f"To use it: --cfg-options {' '.join(options)}", markup=False)
