"""The layer and the tower, compared with PyTorch's own layers and with formulas written out token by token."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petl_zoo.backbones.plan import Cursor, Rows, StreamPlan, Swap
from petl_zoo.backbones.transformer import Attention, Layer, LayerSpec, Multiway, Packing, Run, Tower

WIDTH, HEADS, OTHER = 12, 3, 10
POST = {"pre_norm": False, "eps": 1e-12}
BEIT = {"experts": 2, "sub_norm": True}


@pytest.fixture(autouse=True)
def _exact() -> Any:
    """Double precision, so that a tolerance of 1e-12 leaves no room for another formula."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def spec(**options: Any) -> LayerSpec:
    return LayerSpec(WIDTH, HEADS, **options)


def filled(module: Any) -> Any:
    """Random weights, none of them zero or one, in evaluation mode."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.4)
    return module.eval()


def make_layer(**options: Any) -> Layer:
    return filled(Layer(spec(**options)))


def make_tower(depth: int = 3, **options: Any) -> Tower:
    return filled(Tower([spec(**options)] * depth))


def tokens(*shape: int) -> Tensor:
    return torch.randn(*shape, WIDTH)


def same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


# PyTorch's own layers -------------------------------------------------------------------------------------------------


def copy_attention(ours: Attention, theirs: nn.MultiheadAttention) -> None:
    if theirs.in_proj_weight is not None:
        weights = theirs.in_proj_weight.chunk(3)
    else:  # Keys and values of another width.
        weights = theirs.q_proj_weight, theirs.k_proj_weight, theirs.v_proj_weight
    for name, weight, bias in zip("qkv", weights, theirs.in_proj_bias.chunk(3), strict=True):
        getattr(ours, name).load_state_dict({"weight": weight, "bias": bias})
    ours.out.load_state_dict(theirs.out_proj.state_dict())


def copy_rest(ours: Layer, theirs: nn.Module, norms: tuple[str, ...]) -> None:
    for mine, other in zip(norms, ("norm1", "norm2", "norm3"), strict=False):
        getattr(ours, mine).load_state_dict(getattr(theirs, other).state_dict())
    ours.fc1.load_state_dict(theirs.linear1.state_dict())
    ours.fc2.load_state_dict(theirs.linear2.state_dict())


@pytest.mark.parametrize("pre_norm", [True, False], ids=["pre", "post"])
def test_equals_pytorchs_encoder_layer(pre_norm: bool) -> None:
    theirs = filled(
        nn.TransformerEncoderLayer(
            WIDTH, HEADS, 20, dropout=0.0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=pre_norm
        )
    )
    ours = make_layer(hidden=20, eps=1e-6, pre_norm=pre_norm)
    copy_attention(ours.attn, theirs.self_attn)
    copy_rest(ours, theirs, ("norm1", "norm2"))
    x = tokens(2, 5).requires_grad_()
    real = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
    triangle = torch.ones(5, 5).triu(1).bool()
    same(ours(x), theirs(x))
    same(ours(x, causal=True), theirs(x, src_mask=triangle))
    same(ours(x, mask=real[:, None, None])[real], theirs(x, src_key_padding_mask=~real)[real])


@pytest.mark.parametrize("pre_norm", [True, False], ids=["pre", "post"])
def test_cross_attention_equals_pytorchs_decoder_layer(pre_norm: bool) -> None:
    theirs = nn.TransformerDecoderLayer(
        WIDTH, HEADS, 20, dropout=0.0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=pre_norm
    )
    theirs.multihead_attn = nn.MultiheadAttention(WIDTH, HEADS, kdim=OTHER, vdim=OTHER, batch_first=True)
    filled(theirs)
    ours = make_layer(hidden=20, eps=1e-6, pre_norm=pre_norm, context_width=OTHER)
    copy_attention(ours.attn, theirs.self_attn)
    assert ours.cross is not None
    copy_attention(ours.cross, theirs.multihead_attn)
    copy_rest(ours, theirs, ("norm1", "norm_cross", "norm2"))

    x, context = tokens(2, 4).requires_grad_(), torch.randn(2, 6, OTHER)
    seen = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]]).bool()
    triangle = torch.ones(4, 4).triu(1).bool()
    expected = theirs(x, context, tgt_mask=triangle, memory_key_padding_mask=~seen)
    same(ours(x, causal=True, context=context, context_mask=seen[:, None, None]), expected)
    known = ours.cross.rows(context)
    same(ours(x, causal=True, context=known, context_mask=seen[:, None, None]), expected)


# Formulas, token by token ---------------------------------------------------------------------------------------------


def pick(module: nn.Module, position: int, split: int) -> nn.Module:
    if isinstance(module, Multiway):
        return module.vision if position < split else module.text
    return module


def by_hand(layer: Layer, x: Tensor, split: int = 0, front: Rows | None = None) -> Tensor:
    """A pre-norm layer over one sequence (N, D): each token through its own expert, heads by slices, softmax by exp."""

    def each(module: nn.Module, vectors: list[Tensor]) -> list[Tensor]:
        return [pick(module, i, split)(v) for i, v in enumerate(vectors)]

    attn, size = layer.attn, WIDTH // HEADS
    residual = list(x)
    y = each(layer.norm1, residual)
    q, k, v = (torch.stack(each(m, y)) for m in (attn.q, attn.k, attn.v))
    if front is not None:
        k, v = torch.cat([front.key, k]), torch.cat([front.value, v])
    heads = []
    for h in range(HEADS):
        part = slice(h * size, (h + 1) * size)
        weight = (q[:, part] @ k[:, part].t() / size**0.5).exp()
        heads.append(weight @ v[:, part] / weight.sum(1, keepdim=True))
    y = list(torch.cat(heads, dim=1))
    if layer.spec.sub_norm:
        assert attn.norm is not None
        y = each(attn.norm, y)
    residual = [a + b for a, b in zip(residual, each(attn.out, y), strict=True)]
    hidden = [F.gelu(t) for t in each(layer.fc1, each(layer.norm2, residual))]
    if layer.spec.sub_norm:
        assert layer.norm_hidden is not None
        hidden = each(layer.norm_hidden, hidden)
    return torch.stack([a + b for a, b in zip(residual, each(layer.fc2, hidden), strict=True)])


@pytest.mark.parametrize("split", [0, 1, 3, 6], ids=["text", "one", "both", "vision"])
def test_experts_and_sub_norm(split: int) -> None:
    layer, x = make_layer(**BEIT), tokens(2, 6)
    same(layer(x, split=split), torch.stack([by_hand(layer, each, split) for each in x]))


def test_sub_norm_without_experts() -> None:
    layer, x = make_layer(sub_norm=True), tokens(1, 4)
    same(layer(x)[0], by_hand(layer, x[0]))


def test_one_expert_never_reaches_the_other_modality() -> None:
    layer, x = make_layer(**BEIT), tokens(1, 4)
    layer(x, split=4).sum().backward()
    grads = {name: p.grad is not None for name, p in layer.named_parameters()}
    assert all(has == ("vision" in name) for name, has in grads.items())


def test_rows_in_front_of_keys_and_values() -> None:
    tower, x = make_tower(2), tokens(2, 4)
    rows = Rows(torch.randn(3, WIDTH), torch.randn(3, WIDTH))
    y = tower(x, Run("vision", [(StreamPlan(rows={1: rows}), Cursor(4))]))
    expected = [by_hand(tower.layer(1), by_hand(tower.layer(0), each), front=rows) for each in x]
    same(y, torch.stack(expected))


def test_rows_of_each_sequence() -> None:
    tower, x = make_tower(1), tokens(2, 4)
    rows = Rows(torch.randn(2, 3, WIDTH), torch.randn(2, 3, WIDTH))
    y = tower(x, Run("vision", [(StreamPlan(rows={0: rows}), Cursor(4))]))
    for i in range(2):
        same(y[i], by_hand(tower.layer(0), x[i], front=Rows(rows.key[i], rows.value[i])))


def test_two_plans_rows_stand_one_before_the_other() -> None:
    tower, x = make_tower(1), tokens(1, 4)
    first, second = (Rows(torch.randn(2, WIDTH), torch.randn(2, WIDTH)) for _ in range(2))
    plans = [(StreamPlan(rows={0: rows}), Cursor(4)) for rows in (first, second)]
    joined = Rows(torch.cat([first.key, second.key]), torch.cat([first.value, second.value]))
    same(tower(x, Run("text", plans))[0], by_hand(tower.layer(0), x[0], front=joined))


def test_masked_front_changes_nothing() -> None:
    layer, x = make_layer(), tokens(2, 4)
    front = Rows(torch.randn(2, HEADS, 3, WIDTH // HEADS), torch.randn(2, HEADS, 3, WIDTH // HEADS))
    visible = torch.tensor([False] * 3 + [True] * 4)
    same(layer(x, front=front, mask=visible[None, None, None]), layer(x))


def test_rows_take_the_dtype_of_the_keys() -> None:
    own = Rows(torch.randn(1, 1, 2, 4, dtype=torch.bfloat16), torch.randn(1, 1, 2, 4, dtype=torch.bfloat16))
    front = Rows(torch.randn(1, 1, 3, 4), torch.randn(1, 1, 3, 4))
    joined = own.after(front)
    assert joined.key.dtype == joined.value.dtype == torch.bfloat16
    assert len(joined) == 5


def test_rows_before_a_cross_attentions_context_are_never_masked() -> None:
    tower = make_tower(1, context_width=OTHER, **POST)
    x, context = tokens(2, 3), torch.randn(2, 5, OTHER)
    rows = Rows(torch.randn(2, WIDTH), torch.randn(2, WIDTH))
    seen = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]).bool()
    plan = StreamPlan(cross_rows={0: rows})
    y = tower(x, Run("fusion", [(plan, Cursor(1))], context=context, context_mask=seen))
    short = tower(x[1:], Run("fusion", [(plan, Cursor(1))], context=context[1:, :2]))
    same(y[1:], short)
    assert not torch.allclose(y, tower(x, Run("fusion", context=context, context_mask=seen)))


# Padding and causality ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True], ids=["both_ways", "causal"])
@pytest.mark.parametrize("options", [{}, POST, BEIT], ids=["pre", "post", "experts"])
def test_a_padded_batch_equals_its_sequences(options: dict[str, Any], causal: bool) -> None:
    tower, lengths = make_tower(**options), [5, 2, 4]
    x = tokens(3, 5)
    padding = torch.arange(5) < torch.tensor(lengths)[:, None]
    y = tower(x, Run("text", padding=padding, causal=causal))
    for i, length in enumerate(lengths):
        same(y[i, :length], tower(x[i : i + 1, :length], Run("text", causal=causal))[0])


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("fronted", [False, True])
def test_a_causal_tower_never_sees_what_follows(padded: bool, fronted: bool) -> None:
    tower, x = make_tower(), tokens(2, 5).requires_grad_()
    padding = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]).bool() if padded else None
    rows = Rows(torch.randn(2, WIDTH), torch.randn(2, WIDTH).requires_grad_())
    plans = [(StreamPlan(rows={1: rows}), Cursor(1))] if fronted else []
    y = tower(x, Run("text", plans, padding=padding, causal=True))
    for i in range(4):
        (grad,) = torch.autograd.grad(y[:, i].sum(), x, retain_graph=True)
        assert grad[:, i + 1 :].abs().max() == 0
        assert (grad[:, : i + 1].abs().amax(-1) > 0).all()
    if fronted:  # Each row sees the front, the first one too.
        (grad,) = torch.autograd.grad(y[:, 0].sum(), rows.value)
        assert grad.abs().max() > 0


@pytest.mark.parametrize("causal", [False, True], ids=["both_ways", "causal"])
@pytest.mark.parametrize(
    ("options", "split"),
    [({}, 0), (POST, 0), ({"context_width": OTHER, **POST}, 0), (BEIT, 0), (BEIT, 2), (BEIT, 5)],
    ids=["pre", "post", "cross", "text", "both", "vision"],
)
def test_the_pooled_token_equals_its_row(options: dict[str, Any], split: int, causal: bool) -> None:
    tower, x = make_tower(**options), tokens(3, 5)
    padding = torch.arange(5) < torch.tensor([5, 3, 4])[:, None]
    context = torch.randn(3, 4, OTHER) if "context_width" in options else None
    rows = Rows(torch.randn(2, WIDTH), torch.randn(2, WIDTH))
    wanted = torch.tensor([4, 0, 2])
    for real in (None, padding):
        for plans in ([], [(StreamPlan(rows={2: rows}), Cursor(1))]):
            run = Run("text", plans, padding=real, causal=causal, split=split, context=context)
            y = tower(x, run, pooled=lambda: wanted)
            same(y[:, 0], tower(x, run)[torch.arange(3), wanted])


# Tokens that enter and leave ------------------------------------------------------------------------------------------


def test_cursor_replaces_grows_and_shrinks() -> None:
    x = torch.arange(6.0).expand(2, 6)[..., None]
    real = torch.tensor([[1] * 6, [1] * 4 + [0] * 2]).bool()
    cursor = Cursor(3)
    x, real = cursor.swap(x, real, Swap(torch.tensor([[10.0], [11.0]]), drop=2))
    assert x[0, :, 0].tolist() == [0, 10, 11, 3, 4, 5]
    assert cursor.position == 3
    x, real = cursor.swap(x, real, Swap(torch.tensor([[[20.0], [21.0]], [[30.0], [31.0]]]), drop=1))
    assert x[:, :, 0].tolist() == [[0, 10, 20, 21, 3, 4, 5], [0, 10, 30, 31, 3, 4, 5]]
    assert cursor.position == 4
    x, real = cursor.swap(x, real, Swap(torch.empty(0, 1), drop=3))
    assert x[0, :, 0].tolist() == [0, 3, 4, 5]
    assert cursor.position == 1
    assert real is not None
    assert real.tolist() == [[True] * 4, [True, True, False, False]]


def test_more_cannot_leave_than_there_is() -> None:
    with pytest.raises(ValueError, match=r"drop \(3\) is more than the 2 tokens"):
        Cursor(2).swap(tokens(1, 4), None, Swap(tokens(1), drop=3))


@pytest.mark.parametrize("options", [{}, POST], ids=["pre", "post"])
def test_swaps_take_place_before_their_layers(options: dict[str, Any]) -> None:
    tower, x = make_tower(3, **options), tokens(2, 4)
    replaced, grown = tokens(1), tokens(2, 2)
    plan = StreamPlan(swaps={1: Swap(replaced, drop=1), 2: Swap(grown, drop=1)})
    cursor = Cursor(2)
    y = tower(x, Run("vision", [(plan, cursor)]))
    x = tower.layer(0)(x)
    x = tower.layer(1)(torch.cat([x[:, :1], replaced.expand(2, 1, -1), x[:, 2:]], dim=1))
    x = tower.layer(2)(torch.cat([x[:, :1], grown, x[:, 2:]], dim=1))
    same(y, x)
    assert cursor.position == 3


def test_two_plans_in_one_sequence_keep_the_split() -> None:
    """[3 of vision | start, prompt, word, pad]: vision prompts enter before the split, text prompts behind it."""
    tower, x = make_tower(3, **BEIT), tokens(2, 7)
    padding = torch.tensor([[1] * 7, [1] * 6 + [0]]).bool()
    seen, unseen = tokens(2), tokens(1)
    words, more = tokens(1), tokens(2)
    vision, text = Cursor(3), Cursor(5)
    plans = [
        (StreamPlan(swaps={0: Swap(seen), 2: Swap(unseen, drop=2)}), vision),
        (StreamPlan(swaps={1: Swap(words, drop=1), 2: Swap(more, drop=1)}), text),
    ]
    y = tower(x, Run("fusion", plans, padding=padding, split=3))

    def layer(i: int, image: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        real = torch.ones(2, image.shape[1] + words.shape[1]).bool()
        real[1, -1] = False
        x = tower.layer(i)(torch.cat([image, words], dim=1), split=image.shape[1], mask=real[:, None, None])
        return x[:, : image.shape[1]], x[:, image.shape[1] :]

    def with_prompt(prompt: Tensor) -> Tensor:
        return prompt.expand(2, -1, -1)

    image, sentence = torch.cat([x[:, :3], with_prompt(seen)], dim=1), x[:, 3:]
    image, sentence = layer(0, image, sentence)
    sentence = torch.cat([sentence[:, :1], with_prompt(words), sentence[:, 2:]], dim=1)
    image, sentence = layer(1, image, sentence)
    image = torch.cat([image[:, :3], with_prompt(unseen)], dim=1)
    sentence = torch.cat([sentence[:, :1], with_prompt(more), sentence[:, 2:]], dim=1)
    same(y, torch.cat(layer(2, image, sentence), dim=1))
    assert (vision.position, text.position) == (4, 7)


def test_prompts_in_front_of_a_text_stay_with_the_text_expert() -> None:
    tower, x, prompt = make_tower(1, **BEIT), tokens(2, 4), tokens(2)
    y = tower(x, Run("text", [(StreamPlan(swaps={0: Swap(prompt)}), Cursor(0))]))
    same(y, tower.layer(0)(torch.cat([prompt.expand(2, -1, -1), x], dim=1), split=0))


def test_pooled_is_asked_when_all_cursors_have_moved() -> None:
    tower, x, cursor = make_tower(2), tokens(2, 4), Cursor(1)
    plan = StreamPlan(swaps={1: Swap(tokens(3))})

    def last() -> Tensor:
        return torch.full((2,), cursor.position + 2)

    y = tower(x, Run("vision", [(plan, cursor)]), pooled=last)
    same(y, tower(x, Run("vision", [(plan, Cursor(1))]))[:, -1:])


def test_a_stream_on_later_layers_counts_its_own() -> None:
    """ALBEF's fusion runs the upper text layers: its plan and its cross-attention rows begin there."""
    tower = make_tower(4, context_width=OTHER, **POST)
    x, context = tokens(2, 4), torch.randn(2, 5, OTHER)
    plan = StreamPlan(swaps={1: Swap(tokens(1), drop=1)}, rows={0: Rows(tokens(2), tokens(2))})
    upper = Tower([spec(context_width=OTHER, **POST)] * 2).eval()
    upper.load_state_dict(
        {
            name.replace(f"layers.{i}", f"layers.{i - 2}"): t
            for i in (2, 3)
            for name, t in tower.state_dict().items()
            if f"layers.{i}" in name
        }
    )
    rows = [layer.cross.rows(context) for layer in (upper.layer(0), upper.layer(1)) if layer.cross is not None]
    expected = upper(x, Run("fusion", [(plan, Cursor(2))], context=context))
    same(tower(x, Run("fusion", [(plan, Cursor(2))], context=context), range(2, 4)), expected)
    same(tower(x, Run("fusion", [(plan, Cursor(2))], context=rows), range(2, 4)), expected)


# Sequences that share their beginning ---------------------------------------------------------------------------------


def test_packing_there_and_back() -> None:
    lengths = torch.tensor([3, 1, 4])
    packing = Packing(lengths, 4, 8)
    x = tokens(3, 4)
    packed = packing.pack(x)
    same(packed[0], torch.cat([x[0, :3], x[1, :1], x[2]]))
    back = packing.unpack(packed)
    ended = torch.arange(4) >= lengths[:, None]
    same(back[~ended], x[~ended])
    assert back[ended].abs().max() == 0
    assert packing.first.tolist() == [0, 3, 4]


def tree(tower: Tower, groups: int, lengths: list[int], plans: Any) -> tuple[Tensor, Tensor]:
    """The shared path's result and, sequence by sequence, the plain one's."""
    prefix, suffix = tokens(groups, 3), tokens(groups, len(lengths), max(lengths))
    end = torch.tensor(lengths) - 1
    fast = tower.forward_shared(prefix, suffix, end, sum(lengths), Run("text", plans(), causal=True))
    slow = []
    for g in range(groups):
        for c, length in enumerate(lengths):
            x = torch.cat([prefix[g], suffix[g, c, :length]])[None]
            slow.append(tower(x, Run("text", plans(), causal=True))[0, -1])
    return fast, torch.stack(slow).unflatten(0, (groups, len(lengths)))


@pytest.mark.parametrize("seed", range(4))
def test_shared_equals_alone(seed: int) -> None:
    torch.manual_seed(seed)
    lengths = torch.randint(1, 6, (4,)).tolist()
    same(*tree(make_tower(), 1 + seed % 3, lengths, lambda: []))


def test_shared_equals_alone_under_a_plan() -> None:
    tower = make_tower()
    plan = StreamPlan(
        swaps={1: Swap(tokens(1), drop=1), 2: Swap(tokens(2), drop=1)},
        rows={0: Rows(tokens(2), tokens(2)), 2: Rows(tokens(1), tokens(1))},
    )
    same(*tree(tower, 2, [2, 4, 1], lambda: [(plan, Cursor(3))]))


# Extension points and training ----------------------------------------------------------------------------------------


class Recorder(nn.Module):
    """An adapter that remembers what it was called with."""

    def forward(self, x: Tensor, after_self: Tensor, after_cross: Tensor | None, stream: str) -> Tensor:
        self.seen = x, after_self, after_cross, stream
        return torch.full_like(x, 7.0)


@pytest.mark.parametrize("pre_norm", [True, False], ids=["pre", "post"])
def test_an_adapter_reads_the_sublayers_and_is_added_last(pre_norm: bool) -> None:
    tower = make_tower(1, pre_norm=pre_norm, context_width=OTHER)
    layer, x, context = tower.layer(0), tokens(2, 3), torch.randn(2, 4, OTHER)
    bare = tower(x, Run("fusion", context=context))
    layer.adapter = recorder = Recorder()
    same(tower(x, Run("fusion", context=context)), bare + 7)
    read, after_self, after_cross, stream = recorder.seen
    assert stream == "fusion"
    assert torch.equal(read, x)

    y = layer.norm1(x) if pre_norm else x
    y = layer.attn(y, layer.attn.rows(y))
    expected = x + y if pre_norm else layer.norm1(x + y)
    same(after_self, expected)
    assert layer.cross is not None
    assert layer.norm_cross is not None
    y = layer.cross(layer.norm_cross(expected) if pre_norm else expected, layer.cross.rows(context))
    assert after_cross is not None
    same(after_cross, expected + y if pre_norm else layer.norm_cross(expected + y))

    tower(x, Run("text"))
    assert recorder.seen[2] is None
    assert recorder.seen[3] == "text"


def gradients(tower: Tower, loss: Tensor) -> list[Tensor]:
    return [g for g in torch.autograd.grad(loss, list(tower.parameters()), allow_unused=True) if g is not None]


@pytest.mark.parametrize("shared", [False, True], ids=["forward", "shared"])
def test_checkpointing_gives_equal_gradients(shared: bool) -> None:
    tower = make_tower()
    plan = StreamPlan(swaps={1: Swap(tokens(1), drop=1)}, rows={2: Rows(tokens(1), tokens(1))})
    prefix, suffix, end = tokens(1, 3), tokens(1, 2, 4), torch.tensor([3, 1])
    results = []
    for checkpointing in (False, True):
        tower.checkpointing = checkpointing
        run = Run("text", [(plan, Cursor(2))], causal=True)
        y = tower.forward_shared(prefix, suffix, end, 6, run) if shared else tower(prefix, run)
        results.append([y.detach(), *gradients(tower, y.square().sum())])
    for plain, checkpointed in zip(*results, strict=True):
        same(checkpointed, plain)


def test_checkpointing_repeats_dropout() -> None:
    tower, x = make_tower(2, dropout=0.3, drop_path=0.3).train(), tokens(8, 4)
    results = []
    for checkpointing in (False, True):
        tower.checkpointing = checkpointing
        torch.manual_seed(1)
        results.append(gradients(tower, tower(x, Run("text")).square().sum()))
    for plain, checkpointed in zip(*results, strict=True):
        same(checkpointed, plain)


@pytest.mark.parametrize("options", [{"dropout": 0.5}, {"drop_path": 0.5}], ids=["dropout", "drop_path"])
def test_dropout_acts_in_training_alone(options: dict[str, float]) -> None:
    layer, x = make_layer(**options), tokens(4, 3)
    plain = Layer(spec())
    plain.load_state_dict(layer.state_dict())
    same(layer(x), plain(x))
    layer.train()
    assert not torch.allclose(layer(x), plain(x))
    assert not torch.allclose(layer(x), layer(x))


def test_drop_path_drops_whole_branches_and_keeps_the_mean() -> None:
    layer, x = make_layer(drop_path=0.5), tokens(1, 3)
    with torch.no_grad():
        layer.attn.out.weight.zero_()
        layer.attn.out.bias.zero_()
        branch = layer(x) - x
        many = layer.train()(x.expand(64, -1, -1)) - x
    dropped = many.abs().amax((1, 2)) == 0
    assert 0 < dropped.sum() < 64
    same(many[~dropped], (branch / 0.5).expand_as(many[~dropped]))


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 10, "heads": 4}, r"width \(10\) must be divisible by heads \(4\)"),
        ({"act": "relu6"}, r"act \('relu6'\) must be one of \['gelu', 'quick_gelu'\]"),
        ({"experts": 3}, r"experts \(3\) must be 1, or 2"),
    ],
)
def test_specs_that_cannot_be_made(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LayerSpec(**{"width": WIDTH, "heads": HEADS, **options})


def test_a_layer_without_cross_attention_takes_no_context() -> None:
    with pytest.raises(ValueError, match="no cross-attention"):
        make_layer()(tokens(1, 3), context=torch.randn(1, 2, WIDTH))


def test_quick_gelu_is_its_formula() -> None:
    layer, x = make_layer(act="quick_gelu"), torch.linspace(-3, 3, 7)
    same(layer.act(x), x / (1 + (-1.702 * x).exp()))
