"""The one transformer: a ``Layer`` and a ``Tower`` that carry CLIP, BLIP, ALBEF and BEiT-3.

Shapes use these names: B sequences, N tokens, D width, h heads, d = D / h head width, P rows put in front of keys and
values. ``q``, ``k``, ``v`` and ``out`` are separate Linears under the same names in every backbone, so that a tuner
which re-parameterises a projection names it once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import stochastic_depth

from .plan import Cursor, Rows, StreamPlan


def quick_gelu(x: Tensor) -> Tensor:
    """The sigmoid approximation of GELU that OpenAI's CLIP was trained with: ``x * sigmoid(1.702 x)``."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "quick_gelu": quick_gelu}


@dataclass(frozen=True)
class LayerSpec:
    """What a layer is made of; everything in which the four backbones' layers differ.

    Attributes:
        width: D, width of the residual stream.
        heads: h, number of attention heads.
        hidden: width of the feed-forward network's hidden layer; ``None`` means 4 D.
        act: name of the activation, a key of ``ACTIVATIONS``.
        eps: epsilon of every LayerNorm.
        pre_norm: ``x + f(norm(x))`` if true (CLIP, ViT, BEiT-3), ``norm(x + f(x))`` if false (BERT).
        context_width: width of the states that cross-attention reads; ``None`` means no cross-attention.
        experts: copies of every parametrised piece, chosen by modality (2 in BEiT-3: vision, text).
        sub_norm: extra LayerNorms on the concatenated heads and on the hidden layer (BEiT-3's sub-LN).
        dropout: drop probability of attention weights and of both branches' outputs.
        drop_path: probability with which a whole branch is dropped for a sample.
    """

    width: int
    heads: int
    hidden: int | None = None
    act: str = "gelu"
    eps: float = 1e-5
    pre_norm: bool = True
    context_width: int | None = None
    experts: int = 1
    sub_norm: bool = False
    dropout: float = 0.0
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be divisible by heads ({self.heads})")
        if self.act not in ACTIVATIONS:
            raise ValueError(f"act ({self.act!r}) must be one of {sorted(ACTIVATIONS)}")
        if self.experts not in (1, 2):
            raise ValueError(f"experts ({self.experts}) must be 1, or 2 (vision and text)")


class Multiway(nn.Module):
    """Two experts of one kind: leading tokens go through ``vision``, the rest through ``text`` (BEiT-3)."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.vision = make()
        self.text = make()

    def forward(self, x: Tensor, split: int | Tensor) -> Tensor:
        """Route tokens by position.

        Args:
            split: number of leading tokens of the vision expert, 0 is all text and N is all vision; or (B,), True for a
                sequence whose tokens are all vision's.

        Shape:
            x: (B, N, D_in); returns (B, N, D_out).
        """
        if isinstance(split, Tensor):
            return torch.where(split[:, None, None], self.vision(x), self.text(x))
        if split <= 0:
            return self.text(x)
        if split >= x.shape[1]:
            return self.vision(x)
        return torch.cat([self.vision(x[:, :split]), self.text(x[:, split:])], dim=1)


def _experts(make: Callable[[], nn.Module], count: int) -> nn.Module:
    return make() if count == 1 else Multiway(make)


def _apply(module: nn.Module, x: Tensor, split: int | Tensor) -> Tensor:
    return module(x, split) if isinstance(module, Multiway) else module(x)


class Packing:
    """Sequences of different lengths laid end to end, so that no layer computes on padding.

    Projections, norms and feed-forward networks see one sequence of T = sum of lengths tokens; only attention sees the
    sequences side by side, (C, S), S the longest.
    """

    def __init__(self, lengths: Tensor, longest: int, total: int) -> None:
        """Lay out sequences.

        Args:
            lengths: (C,), tokens of each sequence.
            longest: S, their maximum.
            total: T, their sum; like ``longest`` as a number, so that no device is asked for it.
        """
        self.count, self.longest = len(lengths), longest
        self.first = lengths.cumsum(0) - lengths  # (C,), where each sequence begins
        index = torch.arange(self.count, device=lengths.device)
        sequence = torch.repeat_interleave(index, lengths, output_size=total)  # (T,)
        column = torch.arange(total, device=lengths.device) - self.first[sequence]
        self.places = sequence * longest + column  # (T,) -> C S

    def pack(self, x: Tensor) -> Tensor:
        """(C, S, D) -> (1, T, D)."""
        return x.flatten(0, 1).index_select(0, self.places)[None]

    def unpack(self, x: Tensor) -> Tensor:
        """(1, T, D) -> (C, S, D), with zeros where a sequence has ended: masked as keys, never read as queries."""
        # Each place is written once, so the gradient is a plain gather; indexing would accumulate, slowly.
        side_by_side = x.new_zeros(self.count * self.longest, x.shape[-1]).index_copy(0, self.places, x[0])
        return side_by_side.unflatten(0, (self.count, self.longest))


class Attention(nn.Module):
    """Multi-head attention with separate projections, optional rows in front of keys and values."""

    def __init__(self, spec: LayerSpec, context_width: int | None = None) -> None:
        super().__init__()
        source = context_width or spec.width
        # Cross-attention reads one modality only, so it never has experts.
        count = 1 if context_width else spec.experts
        self.heads = spec.heads
        self.dropout = spec.dropout
        self.q = _experts(lambda: nn.Linear(spec.width, spec.width), count)
        self.k = _experts(lambda: nn.Linear(source, spec.width), count)
        self.v = _experts(lambda: nn.Linear(source, spec.width), count)
        self.out = _experts(lambda: nn.Linear(spec.width, spec.width), count)
        self.norm = _experts(lambda: nn.LayerNorm(spec.width, spec.eps), count) if spec.sub_norm else None

    def split_heads(self, x: Tensor, packing: Packing | None = None) -> Tensor:
        """(B, N, D), or (1, T, D) if packed, -> (B, h, N, d)."""
        x = x if packing is None else packing.unpack(x)
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def rows(self, source: Tensor, split: int = 0, packing: Packing | None = None) -> Rows:
        """Project the tokens that are attended to.

        Shape:
            source: (B, N, D_source), or (1, T, D_source) if packed; keys and values come back as (B, h, N, d).
        """
        key, value = _apply(self.k, source, split), _apply(self.v, source, split)
        return Rows(self.split_heads(key, packing), self.split_heads(value, packing))

    def forward(
        self,
        x: Tensor,
        rows: Rows,
        mask: Tensor | None = None,
        causal: bool = False,
        split: int | Tensor = 0,
        packing: Packing | None = None,
    ) -> Tensor:
        """Attend from ``x`` to ``rows``.

        Args:
            rows: keys and values, whatever was put in front of them included.
            mask: True where a query may look; broadcastable to (B, h, N, P + N).
            causal: lower-triangular mask; only where queries and keys are the same tokens and ``mask`` is None.
            packing: the layout of ``x`` if it is packed; ``rows`` are not.

        Shape:
            x: (B, N, D); returns (B, N, D). ``rows`` are of B sequences, or of fewer, each of which serves B / B'
            consecutive sequences of ``x`` (an image and its captions): those become more queries of one attention, so
            that no key is copied. A mask must then be the same for all queries.
        """
        q = self.split_heads(_apply(self.q, x, split), packing)
        shared = len(q) // len(rows.key)
        if shared > 1:
            q = q.unflatten(0, (-1, shared)).transpose(1, 2).flatten(2, 3)  # (B', h, shared N, d)
        drop = self.dropout if self.training else 0.0
        key, value, dtype = rows.key, rows.value, q.dtype
        if q.device.type == "cpu" and dtype == torch.bfloat16:
            # torch's attention has no fast bfloat16 gradient on CPUs: it takes fourteen times as long as in float32.
            q, key, value = q.float(), key.float(), value.float()
        with torch.autocast(q.device.type, enabled=False):
            y = F.scaled_dot_product_attention(q, key, value, attn_mask=mask, dropout_p=drop, is_causal=causal)
        y = y.to(dtype).transpose(1, 2).flatten(2)  # (B', shared N, D)
        if shared > 1:
            y = y.unflatten(1, (shared, -1)).flatten(0, 1)  # (B, N, D)
        if packing is not None:
            y = packing.pack(y)
        if self.norm is not None:
            y = _apply(self.norm, y, split)
        return _apply(self.out, y, split)


class Layer(nn.Module):
    """One transformer layer, pre- or post-norm, with optional cross-attention, experts and sub-LN.

    ``adapter`` and ``serial`` are empty slots. A tuner may put a module into one; what it returns is added to the
    layer's output. ``adapter(x, after_self, after_cross, stream)`` reads the layer's input and the outputs of its
    attention sub-layers (``after_cross`` is None where there is no cross-attention), each (B, N, D): parallel to the
    feed-forward network, after the post-norm if there is one (where UniAdapter puts its own). ``serial(y, stream)``
    reads the layer's output, what ``adapter`` added included.
    """

    adapter: nn.Module | None
    serial: nn.Module | None

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        hidden = spec.hidden or 4 * spec.width

        def norm() -> nn.Module:
            return nn.LayerNorm(spec.width, spec.eps)

        self.spec = spec
        self.act = ACTIVATIONS[spec.act]
        self.norm1 = _experts(norm, spec.experts)
        self.attn = Attention(spec)
        self.norm_cross = norm() if spec.context_width else None
        self.cross = Attention(spec, spec.context_width) if spec.context_width else None
        self.norm2 = _experts(norm, spec.experts)
        self.fc1 = _experts(lambda: nn.Linear(spec.width, hidden), spec.experts)
        self.fc2 = _experts(lambda: nn.Linear(hidden, spec.width), spec.experts)
        self.norm_hidden = _experts(lambda: nn.LayerNorm(hidden, spec.eps), spec.experts) if spec.sub_norm else None
        self.register_module("adapter", None)
        self.register_module("serial", None)

    def cross_rows(self, states: Tensor) -> Rows:
        """Keys and values of what cross-attention reads: (B, M, D_context) -> (B, h, M, d)."""
        if self.cross is None:
            raise ValueError("this layer has no cross-attention, so it takes no context")
        return self.cross.rows(states)

    def _feed_forward(self, x: Tensor, split: int | Tensor) -> Tensor:
        hidden = self.act(_apply(self.fc1, x, split))
        if self.norm_hidden is not None:
            hidden = _apply(self.norm_hidden, hidden, split)
        return _apply(self.fc2, hidden, split)

    def _into(self, x: Tensor, norm: nn.Module, split: int | Tensor) -> Tensor:
        """What a branch reads: ``norm(x)`` in a pre-norm layer, ``x`` in a post-norm one."""
        return _apply(norm, x, split) if self.spec.pre_norm else x

    def _residual(self, x: Tensor, y: Tensor, norm: nn.Module, split: int | Tensor) -> Tensor:
        """The one residual rule for a branch's output y: pre-norm ``x + y``, post-norm ``norm(x + y)``."""
        if self.training and self.spec.dropout:
            y = F.dropout(y, self.spec.dropout)
        if self.training and self.spec.drop_path:
            y = stochastic_depth(y, self.spec.drop_path, mode="row")
        return x + y if self.spec.pre_norm else _apply(norm, x + y, split)

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
        split: int = 0,
        front: Rows | None = None,
        context: Tensor | Rows | None = None,
        context_mask: Tensor | None = None,
        cross_front: Rows | None = None,
        stream: str = "",
        keep: list[Rows] | None = None,
        packing: Packing | None = None,
        pooled: Tensor | None = None,
    ) -> Tensor:
        """Run the layer.

        Args:
            mask: True where a query may look, over the columns of ``front`` and then the tokens; see ``Attention``.
            causal: each token sees itself and what is before it (and all of ``front``, through ``mask``).
            split: tokens of the vision expert; see ``Multiway``.
            front: keys and values put in front of the tokens' own: a prompt (DoPL) or a prefix that ran before.
            context: states for cross-attention, (B, M, D_context), or their keys and values if they are known already.
            context_mask: True where a query may look in the context, broadcastable to (B, h, N, M).
            cross_front: keys and values put in front of the context's.
            stream: name of the running stream, handed to the adapters.
            keep: if given, the tokens' own keys and values are appended to it.
            packing: the layout of ``x`` if it is packed, (1, T, D).
            pooled: (B,), the one token of each sequence whose output is wanted (its place in T if packed); the others
                serve as keys and values only. Exact, and most of a last layer's work.

        Shape:
            x: (B, N, D); returns (B, N, D), or (B, 1, D) if ``pooled``.
        """
        y = self._into(x, self.norm1, split)
        rows = self.attn.rows(y, split, packing)
        if keep is not None:
            keep.append(rows)
        if front is not None:
            rows = rows.after(front)
        expert: int | Tensor = split
        if pooled is not None:
            if 0 < split < x.shape[1]:
                expert = pooled < split
            x, y = _take(x, pooled, packing), _take(y, pooled, packing)
            packing = None
        y = self.attn(y, rows, mask, causal and mask is None, expert, packing)
        after_self = self._residual(x, y, self.norm1, expert)
        attended, after_cross = after_self, None
        if context is not None:
            if self.cross is None or self.norm_cross is None:
                raise ValueError("this layer has no cross-attention, so it takes no context")
            rows = context if isinstance(context, Rows) else self.cross_rows(context)
            seen = context_mask
            if cross_front is not None:
                rows = rows.after(cross_front)
                seen = None if seen is None else F.pad(seen, (cross_front.key.shape[2], 0), value=True)
            # The texts of one image are queries of one attention, packed or not.
            layout = packing if len(rows.key) > 1 else None
            y = self.cross(self._into(after_self, self.norm_cross, expert), rows, seen, packing=layout)
            attended = after_cross = self._residual(after_self, y, self.norm_cross, expert)
        y = self._feed_forward(self._into(attended, self.norm2, expert), expert)
        y = self._residual(attended, y, self.norm2, expert)
        if self.adapter is not None:
            y = y + self.adapter(x, after_self, after_cross, stream)
        if self.serial is not None:
            y = y + self.serial(y, stream)
        return y


@dataclass
class Run:
    """How a tower is to run one batch, apart from its tokens.

    Attributes:
        stream: name of the stream; picks the adapters' branch.
        plans: for each plan that swaps tokens or adds rows, the cursor behind its prompt tokens in the sequence.
            Order matters where several plans share one sequence: a cursor moves when tokens in front of it change.
        padding: (B, N), True at real tokens; None means that all are real.
        causal: each token sees itself and what is before it.
        split: tokens of the vision expert (moves with vision prompts).
        context: states that cross-attention reads, or their keys and values for each layer that runs.
        context_mask: (B, M), True at real context tokens.
        packing: the layout of the tokens if they are packed; ``padding`` is then of the sequences side by side, and no
            plan may swap tokens.
    """

    stream: str
    plans: Sequence[tuple[StreamPlan, Cursor]] = ()
    padding: Tensor | None = None
    causal: bool = False
    split: int = 0
    context: Tensor | Sequence[Rows] | None = None
    context_mask: Tensor | None = None
    packing: Packing | None = None


class Tower(nn.Module):
    """A stack of layers, run as a plan says: tokens enter and leave, and rows join keys and values, layer by layer."""

    def __init__(self, specs: Sequence[LayerSpec]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(spec) for spec in specs)
        self.checkpointing = False

    def __len__(self) -> int:
        return len(self.layers)

    def layer(self, i: int) -> Layer:
        """Layer i, as what it is."""
        return cast(Layer, self.layers[i])

    def forward(
        self, x: Tensor, run: Run, layers: range | None = None, pooled: Callable[[], Tensor] | None = None
    ) -> Tensor:
        """Run ``layers`` (all of them by default) over ``x``.

        Args:
            pooled: gives (B,), the position of each sequence's one token that is wanted, asked for at the last layer,
                when all cursors have moved.

        Shape:
            x: (B, N, D), or (1, T, D) if packed; returns (B, N', D), where N' - N tokens entered, or (B, 1, D) if
            ``pooled``. The position of a token behind a cursor moves with it.
        """
        padding, split, packing = run.padding, run.split, run.packing
        layers = range(len(self.layers)) if layers is None else layers
        for index, i in enumerate(layers):
            front: Rows | None = None
            cross_front: Rows | None = None
            for plan, cursor in run.plans:
                swap = plan.swaps.get(index)
                if swap is not None:
                    before, grown = cursor.position, swap.grown
                    x, padding = cursor.swap(x, padding, swap)
                    for _, other in run.plans:
                        if other is not cursor and other.position > before:
                            other.position += grown
                    split += grown if split and before <= split else 0
                front = _joined(front, plan.rows.get(index))
                cross_front = _joined(cross_front, plan.cross_rows.get(index))
            layer = self.layer(i)
            context = run.context[index] if isinstance(run.context, Sequence) else run.context
            wanted = pooled() if pooled is not None and i == layers[-1] else None
            ahead = 0 if front is None else len(front)
            side_by_side = None if packing is None else padding
            x = self._call(
                layer,
                x,
                mask=_mask(x if side_by_side is None else side_by_side, padding, run.causal, ahead, wanted),
                causal=run.causal and wanted is None,
                pooled=wanted,
                split=split,
                packing=packing,
                front=_headed(front, layer.attn, len(x) if packing is None else packing.count),
                context=context,
                context_mask=None if run.context_mask is None else run.context_mask[:, None, None],
                cross_front=None if layer.cross is None else _headed(cross_front, layer.cross, _batch(context)),
                stream=run.stream,
            )
        return x

    def _call(self, layer: Layer, x: Tensor, **options: object) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            from torch.utils.checkpoint import checkpoint

            result: Tensor = checkpoint(partial(layer, **options), x, use_reentrant=False)
            return result
        return layer(x, **options)

    def forward_shared(self, prefix: Tensor, suffix: Tensor, end: Tensor, total: int, run: Run) -> Tensor:
        """Run a causal tower over sequences that share their first tokens, the shared tokens once.

        In a causal tower nothing behind a token changes it, so ``prefix`` is the same for every sequence at every
        layer, deep prompts included. It runs once for each group of sequences; the sequences' own tokens, packed
        without padding, attend to its keys and values. Exact: the same sums in another order.

        Args:
            end: (C,), position within the suffix of each sequence's last token, the one that is wanted.
            total: number of the C suffixes' tokens, the sum of ``end + 1``.
            run: plans whose cursors lie within the prefix.

        Shape:
            prefix: (G, P, D), one row a group; suffix: (G, C, S, D); returns (G, C, D).
        """
        groups, count, longest, _ = suffix.shape
        packing = Packing((end + 1).repeat(groups), longest, total * groups)
        last = packing.first + end.repeat(groups)  # (G C,), places of the last tokens among the packed
        column = torch.arange(longest, device=suffix.device)
        x = packing.pack(suffix.flatten(0, 1))  # (1, T, D)
        for i in range(len(self)):
            layer = self.layer(i)
            front: Rows | None = None
            for plan, cursor in run.plans:
                swap = plan.swaps.get(i)
                if swap is not None:
                    prefix, _ = cursor.swap(prefix, None, swap)
                front = _joined(front, plan.rows.get(i))
            at_end = i == len(self) - 1
            kept: list[Rows] = []
            shared = _headed(front, layer.attn, len(prefix))
            prefix = self._call(
                layer,
                prefix,
                mask=_mask(prefix, None, True, 0 if front is None else len(front)),
                causal=True,
                front=shared,
                stream=run.stream,
                keep=kept,
            )
            before = kept[0] if shared is None else kept[0].after(shared)
            mask = column <= (end.repeat(groups)[:, None, None, None] if at_end else column[:, None])
            x = self._call(
                layer,
                x,
                mask=F.pad(mask, (len(before), 0), value=True),
                front=before.repeat(count),
                stream=run.stream,
                packing=packing,
                pooled=last if at_end else None,
            )
        return x[:, 0].unflatten(0, (groups, count))


def _take(x: Tensor, positions: Tensor, packing: Packing | None) -> Tensor:
    """One token of each sequence: (B, N, D), or (1, T, D) if packed, -> (B, 1, D)."""
    if packing is not None:
        return x[0, positions][:, None]
    return x[torch.arange(len(x), device=x.device), positions][:, None]


def _joined(front: Rows | None, more: Rows | None) -> Rows | None:
    if more is None:
        return front
    return more if front is None else more.after(front)


def _headed(rows: Rows | None, attention: Attention, batch: int) -> Rows | None:
    """Bring a plan's rows, (P, D) or (B, P, D), to a batch and the heads of an attention."""
    if rows is None:
        return None

    def head(t: Tensor) -> Tensor:
        return attention.split_heads(t.expand(batch, *t.shape[-2:]))  # (B, h, P, d)

    return Rows(head(rows.key), head(rows.value))


def _batch(context: Tensor | Rows | None) -> int:
    """The number of sequences that cross-attention reads."""
    if context is None:
        return 0
    return len(context.key) if isinstance(context, Rows) else len(context)


def _mask(x: Tensor, padding: Tensor | None, causal: bool, front: int, pooled: Tensor | None = None) -> Tensor | None:
    """Where queries may look: the causal triangle and the padding, with ``front`` open columns before them.

    None where they may look everywhere, or where the triangle alone is left to the attention's own ``causal``.
    """
    if padding is None and not (causal and (front or pooled is not None)):
        return None
    column = torch.arange(x.shape[1], device=x.device)
    query = column if pooled is None else pooled
    mask = column <= query[:, None] if causal else column[None] >= 0  # (N, N), (B, N) if pooled, or (1, N)
    mask = mask[:, None, None] if causal and pooled is not None else mask[None, None]
    if padding is not None:
        mask = mask & padding[:, None, None]
    return F.pad(mask, (front, 0), value=True)
