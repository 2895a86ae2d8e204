"""DoPL: prompts of all streams from one source, refined by what they have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petl_zoo.backbones import Backbone, Plan, Rows, StreamPlan
from petl_zoo.backbones.base import ENCODERS
from registry import TUNERS

from .adapter import check_rank
from .base import Tuner
from .prompting import check_depth, check_positive

CORRELATIONS = ("token", "channel", "none")
ENTROPIES = ("paper", "conditional")
AGGREGATES = ("broadcast", "reweight")
MAPPINGS = ("linear", "lowrank", "none")
SITES = ("self", "cross", "both")
TEXT_PROMPT, VISION_PROMPT = "text prompt", "vision prompt"


@dataclass(frozen=True)
class Detail:
    """What detail-oriented prompt generation finds in one layer's prompts.

    Attributes:
        correlation: R (l, l), text prompts by vision prompts.
        text_entropy: H^tv (l,).
        vision_entropy: H^vt (l,).
        text_weights: w^tv (l,), softmax(-H^tv).
        vision_weights: w^vt (l,).
        text: A^tv, (d_t,) if broadcast or (l, d_t) if reweighted.
        vision: A^vt, likewise.
    """

    correlation: Tensor
    text_entropy: Tensor
    vision_entropy: Tensor
    text_weights: Tensor
    vision_weights: Tensor
    text: Tensor
    vision: Tensor


def detail(
    text: Tensor,
    vision: Tensor,
    *,
    common: tuple[Tensor, Tensor] | None = None,
    correlation: str = "token",
    entropy: str = "paper",
    aggregate: str = "broadcast",
    eps: float = 1e-8,
) -> Detail:
    """Weigh prompt tokens by how little their correlation with the other modality's prompts is spread.

    Args:
        common: both prompts in one width, where the widths differ; they serve the correlation alone.
        correlation: axis of the softmax before the product: ``token``, ``channel``, or ``none``.
        entropy: ``paper`` as printed (equations 5 to 8): row sums of the matrix whose columns are normalised, and the
            reverse; ``conditional`` sums over the axis that is normalised, which is an entropy.
        aggregate: ``broadcast`` one weighted sum to all tokens, or ``reweight`` each token.
        eps: inside the logarithm.

    Shape:
        text: (l, d_t); vision: (l, d_v).
    """
    t, v = common if common is not None else (text, vision)
    if correlation != "none":
        axis = 0 if correlation == "token" else 1
        t, v = t.softmax(axis), v.softmax(axis)
    r = (t @ v.t()).float() if t.dtype in (torch.float16, torch.bfloat16) else t @ v.t()  # (l, l)
    by_column, by_row = r.softmax(0), r.softmax(1)  # N^tv: columns sum to 1; N^vt: rows do.
    h_tv, h_vt = (-n * (n + eps).log() for n in (by_column, by_row))
    text_entropy, vision_entropy = (h_tv.sum(1), h_vt.sum(0)) if entropy == "paper" else (h_vt.sum(1), h_tv.sum(0))
    w_tv, w_vt = (-text_entropy).softmax(0), (-vision_entropy).softmax(0)
    if aggregate == "broadcast":
        a_tv, a_vt = w_tv.to(text.dtype) @ text, w_vt.to(vision.dtype) @ vision
    else:
        a_tv, a_vt = w_tv.to(text.dtype)[:, None] * text, w_vt.to(vision.dtype)[:, None] * vision
    return Detail(r, text_entropy, vision_entropy, w_tv, w_vt, a_tv, a_vt)


@TUNERS.register_module()
class DoPL(Tuner):
    """Put l prompts in front of keys and values of the first k layers of vision, text and fusion.

    All prompts of a layer j come from one source: ``P^a_j = P^s W^a_j + b^a_j`` for each stream a. Detail-oriented
    prompt generation (DPG) then correlates text and vision prompts, R = S_t S_v^T, turns the spread of each token's
    correlation into a weight w = softmax(-H), and adds the weighted sums: P^t + A^tv, P^v + A^vt, and
    P^m + A^tv + A^vt. Queries stay as they are, so no sequence grows; prompts do not depend on the input.

    Source: the DoPL paper (ACL 2025), equations 1 to 17. A reconstruction in these points, which the paper leaves open
    or where its equations contradict each other: the transpose in equation 2 is read so that R relates tokens (l, l);
    the softmax before it runs over tokens, since over channels it is inert at common widths; A is one vector for all
    tokens, which is the one reading in which equations 11 and 12 both fit; each layer has maps of its own and layers
    do not pass prompts on; one prompt serves keys and values; the fusion prompt stands in self-attention; initial
    prompts have standard deviation 0.02; the decoder has none. No setting reproduces all the printed parameter counts
    (0.25M BLIP, 0.16M CLIP, 0.18M ALBEF, 0.5M large ones): ``source_dim`` 11, 13, 10, 14 and 8 come closest.
    """

    diagnostic_axes: Mapping[str, Sequence[str]] = {
        "correlation": (TEXT_PROMPT, VISION_PROMPT),
        "text_entropy": (TEXT_PROMPT,),
        "text_weights": (TEXT_PROMPT,),
        "vision_entropy": (VISION_PROMPT,),
        "vision_weights": (VISION_PROMPT,),
    }

    def __init__(
        self,
        *,
        length: int = 8,
        depth: int | Mapping[str, int] | None = None,
        source_dim: int = 11,
        streams: Sequence[str] | None = None,
        mapping: str = "linear",
        rank: int = 6,
        dpg_layers: int | None = None,
        correlation: str = "token",
        entropy: str = "paper",
        aggregate: str = "broadcast",
        site: str = "self",
        init_std: float = 0.02,
    ) -> None:
        """Choose prompts and their refinement.

        Args:
            length: l, prompts a layer and stream.
            depth: k, layers with prompts: a number for all streams, one for each by name, or None for three quarters
                of each stream (9 of 12, as in the paper).
            source_dim: width of the source prompt.
            streams: where prompts stand, some of ``vision``, ``text``, ``fusion`` (the paper's table 4); None for all
                that are in use.
            mapping: from the source to a layer's prompts: ``linear`` with a bias, ``lowrank`` (two matrices of rank
                ``rank``, no bias), or ``none`` for independent prompts.
            rank: of ``lowrank``.
            dpg_layers: first layers whose prompts are refined; None for all, 0 for none (figure 3c).
            correlation: axis of the softmax before the correlation: ``token``, ``channel`` or ``none``.
            entropy: ``paper`` or ``conditional``; see ``detail``.
            aggregate: ``broadcast`` or ``reweight``.
            site: attention of the fusion stream that sees its prompts: ``self``, ``cross`` or ``both``.
            init_std: standard deviation of the prompts' entries at the start.

        Raises:
            ValueError: a value that is not allowed.
        """
        super().__init__()
        check_positive(length=length, source_dim=source_dim, rank=rank)
        for name, value, allowed in (
            ("mapping", mapping, MAPPINGS),
            ("correlation", correlation, CORRELATIONS),
            ("entropy", entropy, ENTROPIES),
            ("aggregate", aggregate, AGGREGATES),
            ("site", site, SITES),
        ):
            if value not in allowed:
                raise ValueError(f"{name} ({value!r}) must be one of {', '.join(allowed)}")
        if streams is not None and (not streams or not set(streams) <= set(ENCODERS)):
            raise ValueError(f"streams ({tuple(streams)}) must be some of {', '.join(ENCODERS)}, or None")
        if dpg_layers is not None and dpg_layers < 0:
            raise ValueError(f"dpg_layers ({dpg_layers}) must be at least 0, or None")
        self.length, self.depth, self.source_dim, self.mapping, self.rank = length, depth, source_dim, mapping, rank
        self.chosen = None if streams is None else tuple(streams)
        self.needs = frozenset(streams or ())
        self.dpg_layers, self.correlation, self.entropy = dpg_layers, correlation, entropy
        self.aggregate, self.site, self.init_std = aggregate, site, init_std

    def attach(self, backbone: Backbone, classes: Sequence[str]) -> None:
        self.depths = self._depths(backbone)
        like = backbone.like

        def normal(*shape: int, std: float) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=like.device, dtype=like.dtype).normal_(std=std))

        if self.mapping != "none":
            self.source = normal(self.length, self.source_dim, std=1.0)
        for stream, depth in self.depths.items():
            width = backbone.streams[stream].width
            if self.mapping == "lowrank":
                check_rank(self.rank, width, f"the {stream} stream")
            if self.mapping == "none":
                each: list[nn.Parameter] = [normal(self.length, width, std=self.init_std) for _ in range(depth)]
                self.register_module(stream, nn.ParameterList(each))
                continue
            maps = nn.ModuleList()
            for _ in range(depth):
                entries = nn.ParameterDict()
                if self.mapping == "linear":
                    entries["weight"] = normal(self.source_dim, width, std=self.init_std * self.source_dim**-0.5)
                    entries["bias"] = nn.Parameter(torch.zeros(width, device=like.device, dtype=like.dtype))
                else:
                    entries["down"] = normal(self.source_dim, self.rank, std=self.source_dim**-0.5)
                    entries["up"] = normal(self.rank, width, std=self.init_std * self.rank**-0.5)
                maps.append(entries)
            self.register_module(stream, maps)
        self.silent = tuple(s for s in ENCODERS if s in backbone.streams and s not in self.depths)
        # Where the widths differ, prompts are compared in the backbone's joint space, by its frozen projections.
        self.joint: tuple[nn.Linear, nn.Linear] | None = None
        if {"vision", "text"} <= set(self.depths):
            widths = {backbone.streams[s].width for s in ("vision", "text")}
            if len(widths) > 1:
                self.joint = cast(nn.Linear, backbone.text_proj), cast(nn.Linear, backbone.vision_proj)

    def _depths(self, backbone: Backbone) -> dict[str, int]:
        """Prompted layers of each stream.

        Raises:
            ValueError: a depth is above the stream's layers, or of a stream that is not prompted.
        """
        chosen = self.chosen or tuple(s for s in ENCODERS if s in backbone.streams)
        if isinstance(self.depth, Mapping):
            if not set(self.depth) >= set(chosen):
                raise ValueError(f"depth ({dict(self.depth)}) must have a number for each of {', '.join(chosen)}")
            depths = {stream: int(self.depth[stream]) for stream in chosen}
        elif self.depth is not None:
            depths = dict.fromkeys(chosen, self.depth)
        else:
            depths = {stream: max(1, backbone.streams[stream].depth * 3 // 4) for stream in chosen}
        for stream in chosen:
            check_positive(depth=depths[stream])
            check_depth(backbone, stream, depths[stream])
        return depths

    def role_of(self, name: str) -> str:
        return "prompt" if name == "source" or self.mapping == "none" else "projection"

    def count(self, backbone: Backbone) -> int:
        depths, source = self._depths(backbone), self.source_dim
        widths = {stream: backbone.streams[stream].width for stream in depths}
        if self.mapping == "none":
            return sum(depth * self.length * widths[stream] for stream, depth in depths.items())
        a_layer = {
            stream: (source + 1) * width if self.mapping == "linear" else self.rank * (source + width)
            for stream, width in widths.items()
        }
        return self.length * source + sum(depth * a_layer[stream] for stream, depth in depths.items())

    def prompts(self) -> dict[str, list[Tensor]]:
        """Each stream's prompts before their refinement, layer by layer: (l, d)."""
        return {stream: [self._prompt(entry) for entry in getattr(self, stream)] for stream in self.depths}

    def _prompt(self, entry: Tensor | nn.ParameterDict) -> Tensor:
        if isinstance(entry, Tensor):
            return entry
        if "weight" in entry:
            return self.source @ entry["weight"] + entry["bias"]
        return self.source @ entry["down"] @ entry["up"]

    def details(self, prompts: Mapping[str, list[Tensor]]) -> list[Detail]:
        """What DPG finds in each refined layer: those that both text and vision prompt."""
        if not {"vision", "text"} <= set(prompts):
            return []
        pairs = list(zip(prompts["text"], prompts["vision"], strict=False))[: self.dpg_layers]
        return [
            detail(
                text,
                vision,
                common=self._common(text, vision),
                correlation=self.correlation,
                entropy=self.entropy,
                aggregate=self.aggregate,
            )
            for text, vision in pairs
        ]

    @torch.no_grad()
    def diagnostics(self) -> dict[str, Tensor]:
        """R, and H and w of both modalities, of the refined layers; none where no layer is refined."""
        found = self.details(self.prompts())
        if not found:
            return {}
        return {name: torch.stack([getattr(each, name) for each in found]) for name in self.diagnostic_axes}

    def _common(self, text: Tensor, vision: Tensor) -> tuple[Tensor, Tensor] | None:
        if self.joint is None:
            return None
        of_text, of_vision = (linear.weight.detach() for linear in self.joint)
        return text @ of_text.t().to(text.dtype), vision @ of_vision.t().to(vision.dtype)

    def plan(self, image: Tensor | None = None) -> Plan:
        prompts = self.prompts()
        for j, found in enumerate(self.details(prompts)):
            prompts["text"][j] = prompts["text"][j] + found.text
            prompts["vision"][j] = prompts["vision"][j] + found.vision
            if j < len(prompts.get("fusion", ())):
                own = prompts["fusion"][j]
                prompts["fusion"][j] = own + _fitted(found.text, own) + _fitted(found.vision, own)
        plans = {stream: self._stream_plan(stream, each) for stream, each in prompts.items()}
        # Said of streams without prompts too: BLIP's fusion would take the text's, being the same layers.
        return Plan({**dict.fromkeys(self.silent, StreamPlan()), **plans})

    def _stream_plan(self, stream: str, prompts: Sequence[Tensor]) -> StreamPlan:
        rows = {j: Rows(prompt, prompt) for j, prompt in enumerate(prompts)}
        site = self.site if stream == "fusion" else "self"
        return StreamPlan(
            rows=rows if site in ("self", "both") else {}, cross_rows=rows if site in ("cross", "both") else {}
        )


def _fitted(summary: Tensor, prompt: Tensor) -> Tensor:
    """A summary in the prompt's width, by pooling neighbouring channels where it is another."""
    width = prompt.shape[-1]
    if summary.shape[-1] == width:
        return summary
    rows = summary.reshape(1, -1, summary.shape[-1])
    return F.adaptive_avg_pool1d(rows, width).reshape(*summary.shape[:-1], width)
