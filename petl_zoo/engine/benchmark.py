"""Time exact shortcuts against plain code: the same model, the same process, turn by turn."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor

from petl_zoo.backbones import Plan, Tokenizer
from petl_zoo.data.classes import ClassNames
from petl_zoo.data.glyphs.atlas import concepts
from petl_zoo.data.glyphs.scenes import GlyphScenes
from petl_zoo.model import VLModel

from .counting import base, count_parameters
from .faults import ConfigError, Fault
from .merging import merge

__all__ = ["benchmark_classes", "benchmark_rerank"]


class _WordTokenizer(Tokenizer):
    """One id a word, so that random weights need no vocabulary file. CLIP's holds most of these words whole."""

    start, end, pad = 0, 1, 1
    enc = dec = mask = 2  # any token; fused backbones ask for them

    def __init__(self, vocabulary: int, context_length: int) -> None:
        self.vocabulary, self.context_length = vocabulary, context_length
        self.known: dict[str, int] = {}

    def encode(self, text: str) -> list[int]:
        words = text.replace(".", " .").split()
        return [2 + self.known.setdefault(word, len(self.known)) % (self.vocabulary - 2) for word in words]


def benchmark_classes(
    backbone: str,
    tuner: str,
    *,
    classes: int = 100,
    batch: int = 4,
    repeats: int = 5,
    device: str = "cpu",
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Time a training step of classification by class names, and what plain code takes for it.

    Plain: every class's text at the full context length and by itself, every token to the last layer, all of it anew in
    each step. Weights are random, class names are the glyphs' (one to four words), the two take turns after one step
    each.

    Args:
        backbone: name of a file of ``configs/_base_/backbones``.
        tuner: name of a file of ``configs/_base_/tuners``.
        classes: number of class names.
        batch: images a step.
        repeats: timed steps of each.
        device: where to run.
        overrides: options such as ``tuner.depth``.

    Returns:
        Seconds a step as medians, their ratio, and how far loss and gradients are apart: the loss as it is, a gradient
        relative to its parameter's largest entry.

    Raises:
        ConfigError: a name or an option is wrong, or the two do not fit together.
    """
    count_parameters(backbone, tuner, overrides, classes=classes)  # Finds every fault before anything is computed.
    cfg = Config({**base("backbones", backbone)._cfg_dict, **base("tuners", tuner)._cfg_dict})
    merge(cfg, overrides or {})
    known = [concept.name for concept in concepts()]
    names = [known[i % len(known)] + " two" * (i // len(known)) for i in range(classes)]
    torch.manual_seed(0)
    with torch.device(device):
        options = cfg.backbone.to_dict()
        tokenizer = _WordTokenizer(options.get("vocabulary", 49408), options.get("context_length", 77))
        model = VLModel(
            {**options, "checkpoint": None, "tokenizer": tokenizer},
            cfg.tuner.to_dict(),
            {"type": "ClassificationHead"},
            classes=names,
        )
    size = model.backbone.image_size
    data = {
        "images": torch.randn(batch, 3, size, size, device=device),
        "labels": torch.randint(classes, (batch,), device=device),
        "classes": ClassNames(tuple(names), ("a photo of a {}.",)),
    }

    def step(plain: bool) -> tuple[float, list[Tensor]]:
        model.backbone.plain = plain
        model.zero_grad()
        if plain:
            model.forget()
        loss: Tensor = model(**data, mode="loss")["loss"]
        if loss.requires_grad:
            loss.backward()
        return loss.item(), [p.grad.clone() for p in model.trained_parameters().values() if p.grad is not None]

    fast_result, plain_result = step(False), step(True)
    fast, plain = [], []
    for _ in range(repeats):
        fast.append(_seconds(lambda: step(False), device))
        plain.append(_seconds(lambda: step(True), device))
    apart = [
        ((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-30)).item()
        for ours, theirs in zip(fast_result[1], plain_result[1], strict=True)
    ]
    model.backbone.plain = False
    text = model.text(model.tuner.template or "a photo of a {}.", names)
    return {
        "benchmark": "classes",
        "backbone": backbone,
        "tuner": tuner,
        "classes": classes,
        "batch": batch,
        "fast_s": round(statistics.median(fast), 4),
        "plain_s": round(statistics.median(plain), 4),
        "ratio": round(statistics.median(plain) / statistics.median(fast), 2),
        "loss_difference": abs(fast_result[0] - plain_result[0]),
        "gradient_difference": max(apart, default=0.0),
        "tokens_a_class": round((text.total - text.shared * classes) / classes, 2),
        "plain_tokens_a_class": model.backbone.context_length,
        **_machine(device, repeats),
    }


@torch.no_grad()
def benchmark_rerank(backbone: str, *, candidates: int = 64, repeats: int = 3, device: str = "cpu") -> dict[str, Any]:
    """Time the matching of one image with its candidate captions, and what plain code takes for it.

    Plain: the image's states repeated for every caption and projected to keys and values anew for each pair, captions
    padded to the backbone's full length. Weights are random, captions are the Glyph scenes'.

    Args:
        backbone: name of a file of ``configs/_base_/backbones``.
        candidates: captions that are matched with the image.
        repeats: timed passes of each.
        device: where to run.

    Returns:
        Seconds as medians, their ratio, and how far the matching logits are apart.

    Raises:
        ConfigError: there is no such backbone, or it has no matching score.
    """
    options = base("backbones", backbone).backbone.to_dict()
    torch.manual_seed(0)
    tokenizer = _WordTokenizer(options.get("vocabulary", 30522), 512)
    with torch.device(device):
        config = {**options, "checkpoint": None, "tokenizer": tokenizer}
        model = VLModel(config, {"type": "NoTuner"}, {"type": "RetrievalHead"}).eval()
    own = model.backbone
    if not own.matches:
        problem = f"{backbone} compares features only; choose one with a matching score, such as blip_base"
        raise ConfigError([Fault("--backbone", problem)])
    items = GlyphScenes().items["test"]
    captions = [caption for item in items for caption in item.captions][:candidates]
    if len(captions) < candidates:
        problem = f"{candidates} is more than the {len(captions)} captions there are"
        raise ConfigError([Fault("--candidates", problem)])
    text = model.caption_text(captions)
    images = own.image_states(torch.randn(1, 3, own.image_size, own.image_size, device=device))

    def run(plain: bool) -> Tensor:
        own.plain = plain
        states = own.text_states(text) if own.fuses_states else None
        return own.match(own.fuse(text, states, own.context(images), Plan()))[:, 1]

    apart = (run(False) - run(True)).abs().max().item()
    fast, plain = [], []
    for _ in range(repeats):
        fast.append(_seconds(lambda: run(False), device))
        plain.append(_seconds(lambda: run(True), device))
    own.plain = False
    return {
        "benchmark": "rerank",
        "backbone": backbone,
        "candidates": candidates,
        "fast_s": round(statistics.median(fast), 4),
        "plain_s": round(statistics.median(plain), 4),
        "ratio": round(statistics.median(plain) / statistics.median(fast), 2),
        "score_difference": apart,
        "tokens_a_caption": round(text.total / len(text), 2),
        "padded_to": text.ids.shape[1],
        "plain_padded_to": own.caption_length,
        **_machine(device, repeats),
    }


def _machine(device: str, repeats: int) -> dict[str, Any]:
    return {
        "repeats": repeats,
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }


def _seconds(run: Callable[[], object], device: str) -> float:
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start
