"""Adapter, UniAdapter and Aurora: counts as exact integers, and their formulas written out another way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petl_zoo.backbones import Backbone
from petl_zoo.backbones.transformer import Layer
from petl_zoo.engine.counting import count_parameters
from petl_zoo.heads import RetrievalHead
from petl_zoo.model import VLModel
from petl_zoo.tuners import Adapter, Aurora, LoRA, Tuner, UniAdapter
from tests.conftest import make_albef, make_beit3, make_blip, make_clip, pair_batch

BOTTLENECK = {width: 2 * width * 64 + 64 + width for width in (512, 768, 1024)}  # of rank 64, with biases
HEADS, PAIR = 395_266, 198_274  # BLIP-base's projections and matching head; its pair of rank 64
# UniAdapter of rank 512 on BLIP-base: a layer's LayerNorm, Down and three Ups.
UNIADAPTER = 12 * (1_536 + 393_728 + 3 * 393_984)
AURORA = 2 * 768 * 64 + 64**3 + 12 * (4 + 8) * 64 + 12 * 6 * 64 + 12 * 4 * 768  # of rank 64 on BLIP-base
TEXT_PROJ = 196_864
LAYERS = {"vision_layers": 3, "text_layers": 5, "fusion_layer": 3}  # of an ALBEF: two are fused


@pytest.mark.parametrize(
    ("backbone", "tuner", "options", "expected"),
    [
        ("clip_vit_b16", "adapter", {}, 1_982_976),
        ("blip_base", "adapter", {"tuner.rank": 512}, 28_357_632),
        ("blip_base", "adapter", {"tuner.rank": 512, "tuner.heads": True}, 28_752_898),
        ("blip_base", "adapter", {"tuner.rank": 512, "tuner.heads": True, "tuner.cross_rank": 64}, 28_951_172),
        ("blip_base", "adapter", {"tuner.streams": ["fusion"]}, 12 * BOTTLENECK[768]),
        ("blip_large", "adapter", {}, 24 * BOTTLENECK[1024] + 24 * BOTTLENECK[768]),
        ("albef_base", "adapter", {}, (12 + 6 + 6) * BOTTLENECK[768]),
        ("beit3_base", "adapter", {}, (12 + 12) * BOTTLENECK[768]),
        ("blip_base", "uniadapter_r512", {}, 19_520_132),
        ("blip_base", "uniadapter_r512", {"tuner.official": False}, 19_520_132 + 12 * 1_536),
        ("blip_base", "uniadapter_r512", {"tuner.heads": False}, UNIADAPTER + PAIR),
        ("blip_base", "uniadapter_r512", {"tuner.cross_rank": None}, UNIADAPTER + HEADS),
        ("blip_base", "uniadapter", {"tuner.official": True}, 4_766_208 + PAIR + HEADS),
        # Text in six layers, fusion in the other six, vision in all.
        ("albef_base", "uniadapter_r512", {}, UNIADAPTER - 6 * 393_984 + PAIR + HEADS),
        # Down and one Up of rank 128, and a LayerNorm, for each of two widths.
        ("clip_vit_b16", "uniadapter", {"tuner.heads": False}, 12 * (2 * 1_280 * 128 + 2 * 128 + 3 * 1_280)),
        ("blip_base", "aurora_r64", {}, 609_538),
        ("blip_base", "aurora_r64", {"tuner.official": False}, 609_538 + TEXT_PROJ),
        ("blip_base", "aurora_r64", {"tuner.heads": False}, AURORA),
        ("blip_base", "aurora_r64", {"tuner.heads": False, "tuner.query_transformation": False}, AURORA - 36_864),
        ("blip_base", "aurora", {"tuner.heads": False}, 125_696),
        ("blip_base", "aurora", {"tuner.official": True}, 324_098),
        ("albef_base", "aurora_r64", {}, 609_538 - 6 * 3 * 64 - 6 * 4 * 768),
        # Both experts have a vector wherever their stream has one; there is no cross-attention.
        ("beit3_base", "aurora_r64", {"tuner.heads": False}, 2 * 768 * 64 + 64**3 + 12 * (12 + 3) * 64),
        ("clip_vit_b16", "aurora_r64", {"tuner.heads": False}, 2 * 1_280 * 64 + 64**3 + 12 * (12 + 3) * 64),
    ],
)
def test_counts(backbone: str, tuner: str, options: dict[str, Any], expected: int) -> None:
    counted = count_parameters(backbone, tuner, options)
    assert counted["trainable"] == expected
    heads = {"head": counted["by_role"]["head"]} if "head" in counted["by_role"] else {}
    rest = expected - sum(heads.values())
    if tuner.startswith("aurora"):
        gates = counted["by_role"].get("adapter", 0)
        assert counted["by_role"] == {"low_rank": rest - gates, **({"adapter": gates} if gates else {}), **heads}
    else:
        assert counted["by_role"] == {"adapter": rest, **heads}


def test_streams_of_what_is_trained() -> None:
    each = 12 * BOTTLENECK[768]
    assert count_parameters("blip_base", "adapter")["by_stream"] == {"vision": each, "text": each, "fusion": each}
    assert count_parameters("blip_base", "uniadapter_r512")["by_stream"] == {
        "vision": TEXT_PROJ,
        "text": TEXT_PROJ,
        "fusion": PAIR + 1_538,
        "joint": UNIADAPTER,
    }
    assert count_parameters("blip_base", "aurora_r64")["by_stream"] == {
        "vision": TEXT_PROJ + 12 * 12 * 64,
        "text": 12 * 3 * 64,
        "fusion": 12 * 3 * 64 + 36_864 + 1_538,
        "joint": 2 * 49_152 + 262_144,
    }


# Formulas -------------------------------------------------------------------------------------------------------------


class AnsweringHead(RetrievalHead):
    """Runs what questions and answers run."""

    def uses(self, backbone: Backbone) -> frozenset[str]:
        return frozenset(backbone.all_streams) - {"text"}


def make_model(tuner: Tuner, backbone: Backbone | None = None, head: RetrievalHead | None = None) -> VLModel:
    """A model in double precision, its trained parameters moved from the start so that no zero hides anything."""
    backbone = make_blip(vision_width=16, vision_heads=2) if backbone is None else backbone
    model = VLModel(backbone.double(), tuner, head or RetrievalHead()).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.trained_parameters().values():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual.detach(), expected.detach(), rtol=0, atol=1e-10)


def seen(model: VLModel, stream: str, number: int = 1) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]:
    """A layer run on random tokens.

    Returns:
        What its adapter slots read, the layer's input, both attentions' outputs and the layer's own output, and the
        output with what they add.
    """
    _, layer = list(model.backbone.layers(stream))[number]
    width = layer.spec.width
    x = torch.randn(2, 4, width, dtype=torch.float64)
    context = None
    if stream in ("fusion", "decoder") and layer.cross is not None:
        context = torch.randn(2, 5, layer.spec.context_width or 0, dtype=torch.float64)
    slots, read = (layer.adapter, layer.serial), {}

    class Recorder(nn.Module):
        def forward(self, *args: Any) -> float:
            read["states"] = args[:3]
            return 0.0

    layer.adapter, layer.serial = Recorder(), None
    bare = layer(x, context=context, stream=stream)
    layer.adapter, layer.serial = slots
    return *read["states"], bare, layer(x, context=context, stream=stream)


def bottleneck(x: Tensor, down: nn.Linear, up: nn.Linear) -> Tensor:
    return (x @ down.weight.t() + down.bias).clamp(min=0) @ up.weight.t() + up.bias


@pytest.mark.parametrize("stream", ["vision", "text", "fusion"])
@pytest.mark.parametrize("position", ["parallel", "serial"])
@pytest.mark.parametrize("make", [make_blip, make_albef], ids=["BLIP", "ALBEF"])
def test_an_adapter_is_beside_or_behind_the_feed_forward_network(make: Any, position: str, stream: str) -> None:
    tuner = Adapter(rank=3, scale=0.5, position=position)
    model = make_model(tuner, make())
    _, after_self, after_cross, bare, y = seen(model, stream)
    read = bare if position == "serial" else after_self if after_cross is None else after_cross
    assert (after_cross is not None) == (stream == "fusion")
    adapter = tuner.get_submodule(f"{stream}.1")
    same(y, bare + 0.5 * bottleneck(read, adapter.down, adapter.up))
    assert not torch.allclose(y, bare)


def test_a_stream_that_is_not_adapted_stays_as_it_is() -> None:
    model = make_model(Adapter(rank=3, streams=["fusion"]))
    for stream in ("vision", "text", "fusion"):
        if stream == "vision":
            assert all(layer.adapter is None for _, layer in model.backbone.layers(stream))
            continue
        *_, bare, y = seen(model, stream)
        assert torch.equal(y, bare) == (stream == "text")


def paired_adapter() -> Tuner:
    return Adapter(rank=3, cross_rank=2)


def paired_uniadapter() -> Tuner:
    return UniAdapter(rank=3, cross_rank=2)


def small_aurora() -> Tuner:
    return Aurora(rank=3)


@pytest.mark.parametrize("make", [paired_adapter, paired_uniadapter])
def test_keys_and_values_of_images_change_by_one_pair(make: Callable[[], Tuner]) -> None:
    tuner = make()
    model, bare = make_model(tuner, make_blip()), make_blip().double()
    states = torch.randn(2, 5, 24, dtype=torch.float64)
    for (_, layer), (_, old) in zip(model.backbone.layers("fusion"), bare.layers("fusion"), strict=True):
        ours, theirs = layer.cross_rows(states), old.cross_rows(states)
        for part, got, frozen in (("k", ours.key, theirs.key), ("v", ours.value, theirs.value)):
            pair = tuner.get_submodule(f"fusion_pair.{part}")
            assert pair.scale != 1
            change = (states @ pair.down.weight.t() + pair.down.bias) @ pair.up.weight.t() + pair.up.bias
            same(got - frozen, (pair.scale * change).unflatten(-1, (2, 8)).transpose(1, 2))


@pytest.mark.parametrize("make", [make_blip, make_beit3], ids=["BLIP", "BEiT3"])
def test_uniadapter_shares_down_and_reads_text_in_fusion(make: Any) -> None:
    tuner = UniAdapter(rank=3, scale=0.4, cross_rank=2, heads=False)
    backbone = make_beit3() if make is make_beit3 else make_blip(vision_width=16, vision_heads=2)
    head = AnsweringHead() if make is make_beit3 else RetrievalHead()
    model = make_model(tuner, backbone, head)
    (shared,) = tuner.adapters.values()
    unit = shared["1"]
    assert len(shared) == 3

    def z(x: Tensor) -> Tensor:
        x = F.layer_norm(x, x.shape[-1:], unit.norm.weight, unit.norm.bias)
        return (x @ unit.down.weight.t() + unit.down.bias).clamp(min=0)

    def up(kind: str, z: Tensor) -> Tensor:
        return z @ unit.up[kind].weight.t() + unit.up[kind].bias

    _, a, _, bare, y = seen(model, "vision")
    same(y, bare + 0.4 * up("vision", z(a)))
    _, a, c, bare, y = seen(model, "fusion")
    hidden = z(a if c is None else c)
    mixed = up("fusion", hidden) + up("text", hidden)
    u = F.layer_norm(mixed, mixed.shape[-1:], unit.fusion_norm.weight, unit.fusion_norm.bias)
    same(y, bare + 0.4 * (u if c is None else u + up("text", z(a))))
    if make is make_blip:
        _, a, _, bare, y = seen(model, "text")
        same(y, bare + 0.4 * up("text", z(a)))


def test_uniadapter_shares_where_widths_are_equal() -> None:
    tuner = UniAdapter(rank=3, cross_rank=2)
    make_model(tuner, make_blip())  # vision of 24, text of 16
    assert {width: len(units) for width, units in tuner.adapters.items()} == {"24": 3, "16": 3}
    assert set(tuner.adapters["24"]["0"].up) == {"vision"}
    assert set(tuner.adapters["16"]["0"].up) == {"text", "fusion"}

    tuner = UniAdapter(rank=3, cross_rank=2)
    make_model(tuner, make_albef(vision_width=16, vision_heads=2, **LAYERS))
    kinds = [sorted(unit.up) for unit in tuner.adapters["16"].values()]
    assert kinds == [["text", "vision"]] * 3 + [["fusion", "text"]] * 2


def test_the_authors_uniadapter_freezes_a_norm_and_starts_elsewhere() -> None:
    clean, official = UniAdapter(rank=3, cross_rank=2), UniAdapter(rank=3, cross_rank=2, official=True)
    everything, some = (make_model(tuner).trained_parameters() for tuner in (clean, official))
    assert set(everything) - set(some) == {
        f"tuner.adapters.16.{i}.fusion_norm.{part}" for i in range(3) for part in ("weight", "bias")
    }
    for official_init in (False, True):
        tuner = UniAdapter(rank=3, cross_rank=2, official_init=official_init)
        VLModel(make_blip(vision_width=16, vision_heads=2), tuner, RetrievalHead())
        unit = tuner.adapters["16"]["0"]
        assert not unit.up["text"].weight.any()
        for started in (unit.up["vision"].weight, unit.up["fusion"].weight, tuner.fusion_pair["k"].up.weight):
            assert bool(started.any()) == official_init
        assert tuner.identity != official_init


# Aurora ---------------------------------------------------------------------------------------------------------------


def dense(tuner: Aurora, site: str, width_in: int, width_out: int) -> Tensor:
    """The update of a Linear as a matrix, element by element of the cores: (out, in)."""
    u, v, c = tuner.shared.U[str(width_in)], tuner.shared.V[str(width_out)], tuner.shared.C
    linear = tuner.sites[site]
    rank, count = linear.mode.shape
    core = torch.stack([sum(c[:, :, k] * linear.mode[k, m] for k in range(rank)) for m in range(count)], dim=-1)
    wide = torch.empty(rank, rank * count, dtype=c.dtype)
    for j in range(rank):
        for m in range(count):
            wide[:, j * count + m] = core[:, j, m]
    blocks = wide.split(rank, dim=1)
    if linear.in_features > width_in:
        return torch.cat([v @ block @ u for block in blocks], dim=1)
    return torch.cat([v @ block.t() @ u for block in blocks], dim=0)


@pytest.mark.parametrize(
    ("site", "width_in", "width_out"),
    [
        ("vision.layers.0.attn.q", 24, 24),
        ("vision.layers.1.attn.out", 24, 24),
        ("vision.layers.2.fc1", 24, 24),
        ("vision.layers.2.fc2", 24, 24),
        ("text.layers.0.attn.v", 16, 16),
        ("text.layers.1.cross.q", 16, 16),
        ("text.layers.1.cross.k", 24, 16),
    ],
)
def test_aurora_is_a_change_of_weights(site: str, width_in: int, width_out: int) -> None:
    tuner = Aurora(rank=3)
    model = make_model(tuner, make_blip())
    linear = model.backbone.get_submodule(site)
    x = torch.randn(2, 4, linear.in_features, dtype=torch.float64)
    same(linear(x), F.linear(x, linear.weight + dense(tuner, site, width_in, width_out), linear.bias))
    assert not torch.allclose(linear(x), F.linear(x, linear.weight, linear.bias))


def test_aurora_changes_these_weights() -> None:
    tuner = Aurora(rank=3)
    make_model(tuner, make_albef(**LAYERS))
    names = ("attn.q", "attn.k", "attn.v", "attn.out", "fc1", "fc2")
    vision = {f"vision.layers.{i}.{name}" for i in range(3) for name in names}
    text = {f"text.layers.{i}.attn.{n}" for i in range(5) for n in "qkv"}
    fusion = {f"text.layers.{i}.cross.{n}" for i in (3, 4) for n in "qkv"}
    assert set(tuner.sites) == vision | text | fusion

    tuner = Aurora(rank=3)
    make_model(tuner, make_beit3())
    own = {f"encoder.layers.{i}.attn.{n}.{e}" for i in range(3) for n in "qkv" for e in ("vision", "text")}
    more = {f"encoder.layers.{i}.{n}.vision" for i in range(3) for n in ("attn.out", "fc1", "fc2")}
    assert set(tuner.sites) == own | more


def test_auroras_gates_carry_queries_past_the_rest() -> None:
    tuner = Aurora(rank=3)
    model = make_model(tuner, make_blip())
    _, a, c, bare, y = seen(model, "fusion")
    gate = tuner.get_submodule("fusion.1")
    assert c is not None
    same(y, bare + 0.1 * (a * gate.scale_self + gate.shift_self) + 0.1 * (c * gate.scale_cross + gate.shift_cross))
    *_, bare, y = seen(model, "text")
    assert torch.equal(y, bare)


@torch.no_grad()
def test_context_enhances_true_pairs_in_training_only() -> None:
    batch = pair_batch()
    batch["images"] = batch["images"].double()
    matched: dict[bool, Tensor] = {}
    for enhanced in (False, True):
        model = make_model(Aurora(rank=3, context_enhancement=enhanced), make_blip())
        match = model.backbone.match

        def record(fused: Tensor, enhanced: bool = enhanced, match: Any = match) -> Tensor:
            matched[enhanced] = fused.detach()
            return match(fused)

        model.backbone.match = record  # type: ignore[method-assign]
        torch.manual_seed(0)
        model(**batch, mode="loss")
        training = dict(matched)
        model(**batch, mode="predict")
        predicted = matched[enhanced]
        matched.update(training)
        states = model.backbone.text_states(model.caption_text(batch["captions"]))
        same(predicted, matched[False][:4])
    same(matched[True][:4], matched[False][:4] + 0.1 * states.tokens[:, 0].mean(0))
    assert torch.equal(matched[True][4:], matched[False][4:])
    assert len(matched[True]) == 12


def test_the_authors_aurora_freezes_a_projection() -> None:
    everything, some = (make_model(Aurora(rank=3, official=o)).trained_parameters() for o in (False, True))
    assert set(everything) - set(some) == {"backbone.text_proj.weight", "backbone.text_proj.bias"}


def test_aurora_with_gates_says_why_it_cannot_be_merged() -> None:
    tuner = Aurora(rank=3)
    make_model(tuner)
    with pytest.raises(ValueError, match=r"query transformation.* train with tuner.query_transformation=False"):
        tuner.merge()
    for tuner, backbone in ((Aurora(rank=3, query_transformation=False), make_blip()), (Aurora(rank=3), make_clip())):
        make_model(tuner, backbone)
        assert tuner.mergeable


def test_aurora_drops_behind_the_core_in_training() -> None:
    tuner = Aurora(rank=3, dropout=0.5)
    model = make_model(tuner)
    linear = tuner.sites["text.layers.0.attn.q"]
    x = torch.randn(2, 4, 16, dtype=torch.float64)
    assert torch.equal(linear(x), linear(x))
    model.train()
    assert not torch.equal(linear(x), linear(x))


# Decoders and other tuners --------------------------------------------------------------------------------------------


def test_a_decoder_has_the_adapters_of_its_index_and_a_pair_of_its_own() -> None:
    tuner = UniAdapter(rank=3, cross_rank=2)
    model = make_model(tuner, make_blip(vision_width=16, vision_heads=2, decoder="text"), AnsweringHead())
    assert "head" not in model.count().by_role
    assert tuner.fusion_pair["k"] is not tuner.decoder_pair["k"]
    unit = tuner.adapters["16"]["1"]
    _, a, c, bare, y = seen(model, "decoder")
    assert c is not None
    fused, text = (bottleneck(unit.norm(c), unit.down, unit.up[kind]) for kind in ("fusion", "text"))
    query = bottleneck(unit.norm(a), unit.down, unit.up["text"])
    same(y, bare + 0.1 * (unit.fusion_norm(fused + text) + query))


@pytest.mark.parametrize("make", [paired_adapter, paired_uniadapter, small_aurora])
@pytest.mark.parametrize(("decoder", "tied"), [("text", False), ("image", True)])
def test_counts_with_a_decoder(make: Callable[[], Tuner], decoder: str, tied: bool) -> None:
    backbone, tuner = make_blip(decoder=decoder, tied=tied), make()
    model = VLModel(backbone, tuner, AnsweringHead())
    assert model.count().trainable == tuner.count(backbone)
    pairs = [name for name, _ in tuner.named_children() if name.endswith("_pair")]
    assert pairs == ([] if isinstance(tuner, Aurora) else ["fusion_pair"] if tied else ["fusion_pair", "decoder_pair"])


def attach_both(first: Tuner, second: Tuner) -> None:
    blip = make_blip()
    for tuner in (first, second):
        tuner.attach(blip, ())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Adapter(rank=0), r"rank \(0\) must be at least 1"),
        (lambda: Adapter(cross_rank=0), r"cross_rank \(0\) must be at least 1"),
        (lambda: Adapter(position="before"), r"position \('before'\) must be one of parallel, serial"),
        (lambda: make_model(Adapter(rank=17)), r"rank \(17\) is more than the width 16 of the vision stream: use 1 to"),
        (lambda: make_model(Adapter(rank=1, cross_rank=17)), r"cross_rank \(17\) is more than the width 16 of cross-a"),
        (lambda: make_model(UniAdapter(rank=17)), r"rank \(17\) is more than the width 16 of streams of width 16"),
        (lambda: Aurora(dropout=1.0), r"dropout \(1.0\) must be at least 0 and below 1"),
        (lambda: make_model(Aurora(rank=20), make_blip()), r"rank \(20\) is more than the width 16 of streams of"),
        (lambda: attach_both(Adapter(rank=3), UniAdapter(rank=3)), r"the adapter slot of a vision layer is taken"),
        (lambda: attach_both(LoRA(rank=2), Aurora(rank=3)), r"attn.q is a loralib.layers.Linear already: two tuners"),
    ],
)
def test_options_that_make_no_sense(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_other_streams_of_a_slot_are_free() -> None:
    blip = make_blip()
    Adapter(rank=3, streams=["text"]).attach(blip, ())
    Adapter(rank=3, streams=["fusion"]).attach(blip, ())
    layer = blip.text.layer(0)
    assert isinstance(layer, Layer)
    assert layer.adapter is not None
