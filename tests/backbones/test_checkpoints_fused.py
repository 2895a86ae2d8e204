"""Files of BLIP, ALBEF and BEiT-3: every weight lands in its place, what is not there is said, the rest is refused."""

from __future__ import annotations

import json
import logging
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.logging import MMLogger
from safetensors.torch import load_file, save_file
from torch import Tensor

from petl_zoo.backbones import ALBEF, BLIP, CLIP, Backbone, BEiT3
from petl_zoo.backbones.checkpoints import CheckpointError, inspect_checkpoint, load_checkpoint
from petl_zoo.backbones.embeddings import resize_positions
from petl_zoo.backbones.formats import FAMILIES
from petl_zoo.backbones.publish import publish

State = dict[str, Tensor]
# Every size differs from every other, so that a mixed-up axis cannot pass.
BERT: dict[str, Any] = {
    "image_size": 40, "patch_size": 8, "vision_width": 48, "vision_layers": 3, "vision_heads": 3,
    "text_width": 24, "text_layers": 4, "text_heads": 2, "context_length": 13, "vocabulary": 60, "embed_dim": 20,
}  # fmt: skip
SIZES: dict[type[Backbone], dict[str, Any]] = {
    BLIP: BERT,
    ALBEF: {**BERT, "fusion_layer": 1},
    BEiT3: {
        "image_size": 40, "patch_size": 8, "width": 48, "layers": 3, "heads": 3, "context_length": 13,
        "vocabulary": 60,
    },
}  # fmt: skip
HEADS = ["vision_proj.weight", "vision_proj.bias", "text_proj.weight", "text_proj.bias", "itm_head.weight",
         "itm_head.bias", "temp"]  # fmt: skip


def make(kind: type[Backbone], seed: int = 0, **options: Any) -> Any:
    """A backbone whose weights are all different."""
    torch.manual_seed(seed)
    backbone = kind(**{**SIZES[kind], **options}).eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(torch.randn_like(parameter))
    return backbone


# The official names, written out from ours.


def linear(state: State, ours: str, theirs: str) -> State:
    return {f"{theirs}.{kind}": state[f"{ours}.{kind}"] for kind in ("weight", "bias")}


def layers(state: State, tower: str) -> int:
    return len({name.split(".")[2] for name in state if name.startswith(f"{tower}.layers.")})


def vit(state: State) -> State:
    official = {
        "visual_encoder.cls_token": state["vision_embed.class_token"].reshape(1, 1, -1),
        "visual_encoder.pos_embed": state["vision_embed.position"][None],
        **linear(state, "vision_embed.patch", "visual_encoder.patch_embed.proj"),
        **linear(state, "vision_norm", "visual_encoder.norm"),
    }
    for i in range(layers(state, "vision")):
        ours, theirs = f"vision.layers.{i}", f"visual_encoder.blocks.{i}"
        for kind in ("weight", "bias"):
            official[f"{theirs}.attn.qkv.{kind}"] = torch.cat([state[f"{ours}.attn.{p}.{kind}"] for p in "qkv"])
        for a, b in (("attn.out", "attn.proj"), ("fc1", "mlp.fc1"), ("fc2", "mlp.fc2")):
            official |= linear(state, f"{ours}.{a}", f"{theirs}.{b}")
        for norm in ("norm1", "norm2"):
            official |= linear(state, f"{ours}.{norm}", f"{theirs}.{norm}")
    return official


def bert(state: State, ours: str, theirs: str) -> State:
    official = {
        f"{theirs}.embeddings.position_ids": torch.arange(13)[None],
        f"{theirs}.embeddings.word_embeddings.weight": state[f"{ours}_embed.token.weight"],
        f"{theirs}.embeddings.position_embeddings.weight": state[f"{ours}_embed.position"],
        **linear(state, f"{ours}_embed.norm", f"{theirs}.embeddings.LayerNorm"),
    }
    if f"{ours}_embed.segment" in state:
        official[f"{theirs}.embeddings.token_type_embeddings.weight"] = state[f"{ours}_embed.segment"]
    for i in range(layers(state, ours)):
        a, b = f"{ours}.layers.{i}", f"{theirs}.encoder.layer.{i}"
        for attention, block, norm in (("attn", "attention", "norm1"), ("cross", "crossattention", "norm_cross")):
            if f"{a}.{norm}.weight" not in state:
                continue
            for p, word in (("q", "query"), ("k", "key"), ("v", "value")):
                official |= linear(state, f"{a}.{attention}.{p}", f"{b}.{block}.self.{word}")
            official |= linear(state, f"{a}.{attention}.out", f"{b}.{block}.output.dense")
            official |= linear(state, f"{a}.{norm}", f"{b}.{block}.output.LayerNorm")
        official |= linear(state, f"{a}.fc1", f"{b}.intermediate.dense")
        official |= linear(state, f"{a}.fc2", f"{b}.output.dense")
        official |= linear(state, f"{a}.norm2", f"{b}.output.LayerNorm")
    return official


def words(state: State, ours: str, embed: str, theirs: str) -> State:
    """A head that predicts words; torch saves its matrix and its bias a second time, as those of a Linear."""
    return {
        **linear(state, f"{ours}.dense", f"{theirs}.predictions.transform.dense"),
        **linear(state, f"{ours}.norm", f"{theirs}.predictions.transform.LayerNorm"),
        f"{theirs}.predictions.bias": state[f"{ours}.bias"],
        f"{theirs}.predictions.decoder.weight": state[f"{embed}.token.weight"],
        f"{theirs}.predictions.decoder.bias": state[f"{ours}.bias"],
    }


def pair_heads(state: State) -> State:
    return {name: state[name] for name in HEADS}


def with_momentum(official: State, pointer: str) -> State:
    """What training keeps beside the weights: copies of other values, and queues."""
    copies = {}
    for name, tensor in official.items():
        module, _, rest = name.partition(".")
        if module in ("visual_encoder", "text_encoder", "text_decoder", "vision_proj", "text_proj"):
            copies[f"{module}_m.{rest}"] = tensor + 1
    queues = {
        "image_queue": torch.zeros(20, 8), "text_queue": torch.zeros(20, 8), "idx_queue": torch.zeros(1, 8).long(),
        pointer: torch.zeros(1).long(),
    }  # fmt: skip
    return {**copies, **official, **queues}


def decoder(state: State) -> State:
    return {
        **bert(state, "decoder", "text_decoder.bert"),
        **words(state, "decoder_head", "decoder_embed", "text_decoder.cls"),
    }


def blip_pretraining(state: State) -> State:
    official = {**vit(state), **bert(state, "text", "text_encoder"), **pair_heads(state), **decoder(state)}
    return with_momentum(official, "queue_ptr")


def blip_retrieval(state: State) -> State:
    return with_momentum({**vit(state), **bert(state, "text", "text_encoder"), **pair_heads(state)}, "ptr_queue")


def blip_vqa(state: State) -> State:
    return {**vit(state), **bert(state, "text", "text_encoder"), **decoder(state)}


def albef_pretraining(state: State) -> State:
    official = {
        **vit(state), **bert(state, "text", "text_encoder.bert"), **pair_heads(state),
        **words(state, "lm_head", "text_embed", "text_encoder.cls"),
    }  # fmt: skip
    return with_momentum(official, "queue_ptr")


def albef_retrieval(state: State) -> State:
    return with_momentum({**vit(state), **bert(state, "text", "text_encoder"), **pair_heads(state)}, "queue_ptr")


def albef_vqa(state: State) -> State:
    return with_momentum(blip_vqa(state), "queue_ptr")


def beit3(state: State) -> State:
    official = {
        "beit3.text_embed.weight": state["text_embed.token.weight"],
        "beit3.vision_embed.cls_token": state["vision_embed.class_token"].reshape(1, 1, -1),
        "beit3.vision_embed.mask_token": torch.ones(1, 1, 48),
        **linear(state, "vision_embed.patch", "beit3.vision_embed.proj"),
    }
    for letter, expert in (("A", "vision"), ("B", "text")):
        table = state[f"{expert}_embed.position"]
        # Two rows stand in front that nothing reads.
        official[f"beit3.encoder.embed_positions.{letter}.weight"] = torch.cat([torch.full((2, 48), 7.0), table])
        official |= linear(state, f"encoder_norm.{expert}", f"beit3.encoder.layer_norm.{letter}")
        for i in range(layers(state, "encoder")):
            a, b = f"encoder.layers.{i}", f"beit3.encoder.layers.{i}"
            for ours, theirs in (
                ("attn.q", f"self_attn.q_proj.{letter}"), ("attn.k", f"self_attn.k_proj.{letter}"),
                ("attn.v", f"self_attn.v_proj.{letter}"), ("attn.out", f"self_attn.out_proj.{letter}"),
                ("attn.norm", f"self_attn.inner_attn_ln.{letter}"), ("norm1", f"self_attn_layer_norm.{letter}"),
                ("norm2", f"final_layer_norm.{letter}"), ("fc1", f"ffn.{letter}.fc1"), ("fc2", f"ffn.{letter}.fc2"),
                ("norm_hidden", f"ffn.{letter}.ffn_layernorm"),
            ):  # fmt: skip
                official |= linear(state, f"{a}.{ours}.{expert}", f"{b}.{theirs}")
    return official


def beit3_pretraining(state: State) -> State:
    heads = {"mlm_head.weight": torch.ones(60, 48), "mlm_head.bias": torch.ones(60),
             "mim_head.weight": torch.ones(32, 48), "mim_head.bias": torch.ones(32)}  # fmt: skip
    return {**beit3(state), **heads}


def beit3_retrieval(state: State) -> State:
    projections = {"vision_head.weight": state["vision_proj.weight"], "language_head.weight": state["text_proj.weight"]}
    return {**beit3(state), **projections, "logit_scale": state["logit_scale"]}


def beit3_vqa(state: State) -> State:
    heads = ("pooler.norm.weight", "pooler.dense.weight", "head.0.weight", "head.1.bias", "head.3.bias")
    return {**beit3(state), **{name: torch.ones(3) for name in heads}}


Writer = Callable[[State], State]
PROJECTIONS = ["vision_proj.weight", "text_proj.weight", "logit_scale"]
# The file, the backbone that is written to it and read back, and what the file does not hold.
FILES: dict[str, tuple[Writer, type[Backbone], dict[str, Any], list[str]]] = {
    "BLIP pre-training": (blip_pretraining, BLIP, {"decoder": "image", "tied": True}, []),
    "BLIP pre-training, untied": (blip_pretraining, BLIP, {"decoder": "image"}, []),
    "BLIP retrieval": (blip_retrieval, BLIP, {}, []),
    "BLIP VQA": (blip_vqa, BLIP, {"decoder": "text"}, HEADS),
    "ALBEF pre-training": (albef_pretraining, ALBEF, {"mlm": True}, []),
    "ALBEF retrieval": (albef_retrieval, ALBEF, {}, []),
    "ALBEF VQA": (albef_vqa, ALBEF, {"decoder": "text"}, HEADS),
    "BEiT-3 pre-training": (beit3_pretraining, BEiT3, {}, PROJECTIONS),
    "BEiT-3 itc": (beit3_retrieval, BEiT3, {}, []),
    "BEiT-3 indomain": (beit3, BEiT3, {}, PROJECTIONS),
    "BEiT-3 fine-tuned, VQA": (beit3_vqa, BEiT3, {}, PROJECTIONS),
    "our BLIP": (dict, BLIP, {"decoder": "image"}, []),
    "our ALBEF": (dict, ALBEF, {"decoder": "text", "mlm": True}, []),
    "our BEiT-3": (dict, BEiT3, {}, []),
}


def written(folder: Path, official: State) -> Path:
    path = folder / "weights.pth"
    torch.save({"model": official, "epoch": 3, "config": {"image_res": 384}}, path)
    return path


def equal(backbone: Backbone, state: State, names: list[str] | None = None) -> None:
    own = backbone.state_dict()
    for name in own if names is None else names:
        assert torch.equal(own[name], state[name]), name


@pytest.fixture
def log() -> Iterator[list[logging.LogRecord]]:
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler, logger = Keep(logging.INFO), MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


@pytest.mark.parametrize("case", FILES)
def test_every_weight_lands_in_its_place(tmp_path: Path, log: list[Any], case: str) -> None:
    write, kind, options, missing = FILES[case]
    theirs = make(kind, 1, **options).state_dict()
    path = written(tmp_path, write(theirs))
    assert inspect_checkpoint({"type": kind.__name__, **SIZES[kind], **options}, path) == []
    assert log == []
    backbone = make(kind, 2, **options)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    loaded = load_checkpoint(backbone, path)
    equal(backbone, {**theirs, **{name: before[name] for name in missing}})
    assert set(loaded.missing) == set(missing)
    assert loaded.seeded == ()
    assert loaded.tensors == len(list(backbone.parameters())) - len(missing)
    if missing:
        [record] = log
        assert record.levelno == logging.WARNING
        assert f"holds no {', '.join(dict.fromkeys(n.split('.')[0] for n in loaded.missing))}; left" in record.msg
    else:
        assert log == []


@pytest.mark.parametrize("case", ["BLIP retrieval", "ALBEF retrieval", "BEiT-3 itc"])
def test_positions_are_resized_for_another_image_size(tmp_path: Path, case: str) -> None:
    write, kind, _, _ = FILES[case]
    theirs = make(kind, 1)
    path = written(tmp_path, write(theirs.state_dict()))
    backbone = make(kind, 2, image_size=64)
    load_checkpoint(backbone, path)
    expected = resize_positions(theirs.vision_embed.position, 8)
    assert torch.equal(backbone.vision_embed.position[0], theirs.vision_embed.position[0])
    torch.testing.assert_close(backbone.vision_embed.position, expected, rtol=0, atol=0)
    assert backbone.encode_image(torch.zeros(1, 3, 64, 64)).shape[0] == 1


@pytest.mark.parametrize(
    ("case", "options"),
    [("BLIP pre-training", {}), ("BLIP VQA", {}), ("ALBEF pre-training", {}), ("ALBEF VQA", {"mlm": False})],
)
def test_a_part_that_the_backbone_is_built_without_is_left_out(
    tmp_path: Path, case: str, options: dict[str, Any]
) -> None:
    write, kind, full, _ = FILES[case]
    theirs = make(kind, 1, **full).state_dict()
    backbone = make(kind, 2, **options)
    loaded = load_checkpoint(backbone, written(tmp_path, write(theirs)))
    equal(backbone, theirs, [name for name in backbone.state_dict() if name not in loaded.missing])


def test_a_decoder_that_the_file_lacks_keeps_its_initialisation(tmp_path: Path, log: list[Any]) -> None:
    theirs = make(BLIP, 1).state_dict()
    path = written(tmp_path, blip_retrieval(theirs))
    for tied in (True, False):
        log.clear()
        backbone = make(BLIP, 2, decoder="image", tied=tied)
        before = {name: p.clone() for name, p in backbone.named_parameters() if name.startswith("decoder")}
        loaded = load_checkpoint(backbone, path)
        assert set(loaded.missing) == set(before)
        equal(backbone, before, list(before))
        [record] = log
        parts = "decoder, decoder_head" if tied else "decoder_embed, decoder, decoder_head"
        assert f"weights.pth: the file (official BLIP) holds no {parts}; left at the initialisation." in record.msg
    equal(backbone, theirs, list(theirs))


def test_a_tied_decoder_stays_one_with_the_text_tower(tmp_path: Path) -> None:
    theirs = make(BLIP, 1, decoder="image", tied=True)
    path = written(tmp_path, blip_pretraining(theirs.state_dict()))
    with torch.device("meta"):
        empty = BLIP(**BERT, decoder="image", tied=True)
    for backbone in (make(BLIP, 2, decoder="image", tied=True), empty):
        load_checkpoint(backbone, path)
        equal(backbone, theirs.state_dict())
        assert backbone.decoder.layers[1].fc1.weight is backbone.text.layers[1].fc1.weight
        assert backbone.decoder_embed.token.weight is backbone.text_embed.token.weight
        assert backbone.decoder.layers[1].attn.q.weight is not backbone.text.layers[1].attn.q.weight


def test_a_tied_decoder_saved_once_loads_into_either(tmp_path: Path, log: list[Any]) -> None:
    theirs = make(BLIP, 1, decoder="image", tied=True)
    once = {name: p.detach().clone() for name, p in theirs.named_parameters()}
    assert "decoder.layers.0.fc1.weight" not in once
    save_file(once, tmp_path / "tied.safetensors")
    tied, untied = make(BLIP, 2, decoder="image", tied=True), make(BLIP, 3, decoder="image")
    loaded = load_checkpoint(tied, tmp_path / "tied.safetensors")
    equal(tied, theirs.state_dict())
    assert (loaded.missing, loaded.seeded) == ((), ())
    loaded = load_checkpoint(untied, tmp_path / "tied.safetensors")
    equal(untied, theirs.state_dict())
    assert loaded.missing == ()
    assert "decoder.layers.3.cross.v.bias" in loaded.seeded
    [record] = log
    assert "start from others: decoder_embed from text_embed, decoder from text" in record.msg
    assert not any(".attn." in name for name in loaded.seeded)


@pytest.mark.parametrize("words", [True, False], ids=["pre-training", "retrieval"])
def test_albef_decoder_starts_from_the_fusion_layers(tmp_path: Path, log: list[Any], words: bool) -> None:
    square = {"vision_width": 24, "vision_heads": 2}
    theirs = make(ALBEF, 1, mlm=True, **square).state_dict()
    path = written(tmp_path, (albef_pretraining if words else albef_retrieval)(theirs))
    backbone = make(ALBEF, 2, decoder="text", **square)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    assert len(backbone.decoder) == 3
    loaded = load_checkpoint(backbone, path)
    own = backbone.state_dict()
    for name in (n for n in own if n.startswith("decoder.layers.")):
        _, _, layer, rest = name.split(".", 3)
        assert torch.equal(own[name], theirs[f"text.layers.{int(layer) + 1}.{rest}"]), name
    for part in ("token.weight", "position", "segment", "norm.weight", "norm.bias"):
        assert torch.equal(own[f"decoder_embed.{part}"], theirs[f"text_embed.{part}"]), part
    head = [name for name in own if name.startswith("decoder_head.")]
    if words:
        equal(backbone, {name: theirs[name.replace("decoder", "lm", 1)] for name in head}, head)
        assert (loaded.missing, len(log)) == ((), 1)
        assert log[0].msg.endswith("decoder_embed from text_embed, decoder from text, decoder_head from lm_head.")
    else:
        equal(backbone, before, head)
        assert set(loaded.missing) == set(head)
        assert "holds no decoder_head; left at the initialisation" in log[1].msg
    assert set(loaded.seeded) == {n for n in own if n.startswith("decoder")} - set(loaded.missing)
    backbone.decoder_embed.token.weight.data.zero_()
    assert torch.equal(own["text_embed.token.weight"], theirs["text_embed.token.weight"])  # A copy, no alias.


def test_albef_decoder_of_another_width_starts_from_what_fits(tmp_path: Path) -> None:
    theirs = make(ALBEF, 1, mlm=True).state_dict()
    backbone = make(ALBEF, 2, decoder="text")
    loaded = load_checkpoint(backbone, written(tmp_path, albef_pretraining(theirs)))
    assert set(loaded.missing) == {f"decoder.layers.{i}.cross.{p}.weight" for i in range(3) for p in "kv"}
    assert torch.equal(backbone.decoder.layers[2].cross.k.bias, theirs["text.layers.3.cross.k.bias"])


def test_what_the_meta_device_cannot_keep_is_told(tmp_path: Path) -> None:
    path = written(tmp_path, beit3(make(BEiT3, 1).state_dict()))
    with torch.device("meta"):
        backbone = BEiT3(**SIZES[BEiT3])
    with pytest.raises(CheckpointError, match="holds no logit_scale, vision_proj, text_proj, and a backbone on the me"):
        load_checkpoint(backbone, path)
    assert all(p.is_meta for p in backbone.parameters())


@pytest.mark.parametrize(("kind", "options"), [(BLIP, {"decoder": "image"}), (ALBEF, {"mlm": True}), (BEiT3, {})])
def test_sizes_are_read_from_shapes(kind: type[Backbone], options: dict[str, Any]) -> None:
    family = FAMILIES[kind.__name__]
    heads = set(family.heads.values())  # Shapes do not tell.
    sizes = family.sizes(make(kind, **options).state_dict())
    assert sizes == {key: value for key, value in SIZES[kind].items() if key not in heads}


RELEASES = [(BLIP, "base", 224), (BLIP, "base", 480), (BLIP, "large", 384), (ALBEF, "base", 256),
            (BEiT3, "base", 480), (BEiT3, "large", 224)]  # fmt: skip


def expanded(kind: type[Backbone], **options: Any) -> State:
    """Tensors of one element, expanded: a small file with the shapes of a large one."""
    with torch.device("meta"):
        backbone = kind(**options)
    return {name: torch.zeros(()).expand(tensor.shape) for name, tensor in backbone.state_dict().items()}


@pytest.mark.parametrize(("kind", "release", "image_size"), RELEASES)
def test_published_sizes_are_recognised_with_their_heads(kind: type[Backbone], release: str, image_size: int) -> None:
    family = FAMILIES[kind.__name__]
    sizes: dict[str, Any] = dict(family.releases[release].sizes)
    found = family.sizes(expanded(kind, **sizes, image_size=image_size))
    assert found == {**sizes, "image_size": image_size}
    assert family.release(found) == release
    width, layers, heads = (1024, 24, 16) if release == "large" else (768, 12, 12)
    prefix = "" if kind is BEiT3 else "vision_"
    assert [sizes[f"{prefix}{key}"] for key in ("width", "layers", "heads")] == [width, layers, heads]


@pytest.mark.parametrize(
    ("held", "kind", "phrases"),
    [
        (
            "large", BLIP,
            ["a BLIP large checkpoint (vision_width 1024, vision_layers 24, vision_heads 16)",
             "but the config says base (vision_width 768, vision_layers 12, vision_heads 12)",
             "use configs/_base_/backbones/blip_large.py"],
        ),
        ("base", BLIP, ["a BLIP base checkpoint", "use configs/_base_/backbones/blip_base.py"]),
        ("large", BEiT3, ["a BEiT-3 large checkpoint (width 1024, layers 24, heads 16)", "beit3_large.py"]),
    ],
)  # fmt: skip
def test_another_release_is_named_with_its_config(
    tmp_path: Path, held: str, kind: type[Backbone], phrases: list[str]
) -> None:
    releases = FAMILIES[kind.__name__].releases
    torch.save(expanded(kind, **releases[held].sizes), tmp_path / "other.pth")
    wanted = releases["large" if held == "base" else "base"].sizes
    [fault] = inspect_checkpoint({"type": kind.__name__, **wanted}, tmp_path / "other.pth")
    for phrase in phrases:
        assert phrase in fault


def test_wrong_heads_are_found_where_the_sizes_are_published_ones(tmp_path: Path) -> None:
    torch.save(expanded(BEiT3), tmp_path / "base.pt")
    assert inspect_checkpoint({"type": "BEiT3", "image_size": 480}, tmp_path / "base.pt") == []
    [fault] = inspect_checkpoint({"type": "BEiT3", "heads": 16}, tmp_path / "base.pt")
    assert "a BEiT-3 base checkpoint (heads 12), but the config says otherwise (heads 16)" in fault


def test_another_fusion_layer_is_told_by_its_key(tmp_path: Path) -> None:
    path = written(tmp_path, albef_retrieval(make(ALBEF, 1).state_dict()))
    [fault] = inspect_checkpoint({"type": "ALBEF", **BERT, "fusion_layer": 2}, path)
    assert "(fusion_layer 1), but the config says otherwise (fusion_layer 2): set backbone.fusion_layer=1" in fault


CLIP_SIZES = {**BERT, "text_width": 16, "text_layers": 2}
# What is at the path, the backbone it is for, and what the message must say.
BAD: dict[str, tuple[Callable[[Path], object], type[Backbone], dict[str, Any], list[str]]] = {
    "ALBEF for BLIP": (
        lambda d: written(d, albef_retrieval(make(ALBEF).state_dict())), BLIP, {},
        ["no BLIP checkpoint, but an ALBEF checkpoint (names: official ALBEF)", "official BLIP, Hugging Face BLIP"],
    ),
    "ALBEF's pre-training for BLIP": (
        lambda d: written(d, albef_pretraining(make(ALBEF, mlm=True).state_dict())), BLIP, {},
        ["no BLIP checkpoint, but an ALBEF checkpoint"],
    ),
    "our ALBEF for BLIP": (
        lambda d: written(d, make(ALBEF).state_dict()), BLIP, {},
        ["no BLIP checkpoint, but an ALBEF checkpoint (names: PETL Zoo)"],
    ),
    "BLIP for ALBEF": (
        lambda d: written(d, blip_pretraining(make(BLIP, decoder="image", tied=True).state_dict())), ALBEF, {},
        ["no ALBEF checkpoint, but a BLIP checkpoint (names: official BLIP)"],
    ),
    "our BLIP for CLIP": (
        lambda d: written(d, make(BLIP).state_dict()), CLIP, {},
        ["no CLIP checkpoint, but a BLIP checkpoint (names: PETL Zoo)"],
    ),
    "our BEiT-3 for CLIP": (
        lambda d: written(d, make(BEiT3).state_dict()), CLIP, {},
        ["no CLIP checkpoint, but a BEiT-3 checkpoint (names: PETL Zoo)"],
    ),
    "CLIP for BLIP": (
        lambda d: written(d, CLIP(**CLIP_SIZES).state_dict()), BLIP, {},
        ["no BLIP checkpoint, but a CLIP checkpoint (names: PETL Zoo)"],
    ),
    "BLIP for BEiT-3": (
        lambda d: written(d, blip_vqa(make(BLIP, decoder="text").state_dict())), BEiT3, {},
        ["no BEiT-3 checkpoint, but a BLIP checkpoint (names: official BLIP)"],
    ),
    "a ViT": (
        lambda d: written(d, without_prefix(vit(make(BLIP).state_dict()))), BLIP, {},
        ["no BLIP checkpoint, but a ViT without a text tower"],
    ),
    "BLIP's ViT": (
        lambda d: written(d, vit(make(BLIP).state_dict())), BLIP, {}, ["the vision tower alone of a BLIP or ALBEF"],
    ),
    "a captioner": (
        lambda d: written(d, {**vit(make(BLIP).state_dict()), **decoder(make(BLIP, decoder="image").state_dict())}),
        BLIP, {}, ["a BLIP or ALBEF checkpoint without its text encoder"],
    ),
    "pickled objects": (
        lambda d: torch.save({"model": beit3(make(BEiT3).state_dict()), "args": Namespace(lr=1)}, d / "weights.pth"),
        BEiT3, {}, ["refused", "argparse.Namespace", "can run any code"],
    ),
    "truncated": (
        lambda d: cut(written(d, albef_vqa(make(ALBEF, decoder="text").state_dict()))), ALBEF, {"decoder": "text"},
        ["truncated, damaged or no checkpoint", "Get it again"],
    ),
    "a decoder of questions for captions": (
        lambda d: written(d, blip_vqa(make(BLIP, decoder="text").state_dict())), BLIP, {"decoder": "image"},
        ["its decoder attends to states of width 24, but this backbone's to width 48", "Set backbone.decoder='text'"],
    ),
    "a decoder of captions for questions": (
        lambda d: written(d, blip_pretraining(make(BLIP, decoder="image").state_dict())), BLIP, {"decoder": "text"},
        ["its decoder attends to states of width 48", "Set backbone.decoder='image'"],
    ),
    "an untied decoder": (
        lambda d: written(d, blip_pretraining(make(BLIP, decoder="image").state_dict())), BLIP,
        {"decoder": "image", "tied": True},
        ["its decoder has weights of its own (decoder_embed.", "Set backbone.tied=False."],
    ),
    "half a decoder": (
        lambda d: written(d, lacking(blip_vqa, BLIP, "text_decoder.bert.encoder.layer.2", decoder="text")), BLIP,
        {"decoder": "text"}, ["missing: decoder.layers.2.norm1.weight", "Set backbone.checkpoint to complete weights"],
    ),
    "half a head": (
        lambda d: written(d, lacking(beit3_retrieval, BEiT3, "nothing") | {"vision_head.weight": torch.ones(48, 9)}),
        BEiT3, {}, ["of another shape: vision_proj.weight (48, 9) instead of (48, 48)"],
    ),
    "no bias of a head": (
        lambda d: written(d, lacking(blip_retrieval, BLIP, "itm_head.bias")), BLIP, {}, ["missing: itm_head.bias."],
    ),
    "without a layer's cross-attention": (
        lambda d: written(d, lacking(albef_retrieval, ALBEF, "text_encoder.encoder.layer.2.cross")), ALBEF, {},
        ["missing: text.layers.2.norm_cross.weight"],
    ),
    "an official UniAdapter": (
        lambda d: written(d, {**blip_retrieval(make(BLIP).state_dict()), "adapters.0.down_proj.bias": torch.ones(8)}),
        BLIP, {}, ["unexpected: adapters.0.down_proj.bias."],
    ),
    "other numbers of axes": (
        lambda d: written(d, {**blip_retrieval(make(BLIP).state_dict()), "visual_encoder.cls_token": torch.ones(()),
                              "visual_encoder.pos_embed": torch.ones(26)}), BLIP, {},
        ["vision_embed.class_token () instead of (48,)", "vision_embed.position"],
    ),
}  # fmt: skip


def without_prefix(state: State) -> State:
    return {name.removeprefix("visual_encoder."): tensor for name, tensor in state.items()}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lacking(write: Writer, kind: type[Backbone], prefix: str, **options: Any) -> State:
    official = write(make(kind, **options).state_dict())
    return {name: tensor for name, tensor in official.items() if not name.startswith(prefix)}


@pytest.mark.parametrize("case", BAD)
def test_bad_file_is_told_in_one_paragraph_and_changes_nothing(tmp_path: Path, case: str) -> None:
    arrange, kind, options, phrases = BAD[case]
    arrange(tmp_path)
    sizes = {**SIZES.get(kind, CLIP_SIZES), **options}
    backbone = kind(**sizes)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(backbone, tmp_path / "weights.pth")
    message = str(caught.value)
    for phrase in (*phrases, str(tmp_path / "weights.pth")):
        assert phrase in message
    assert "\n" not in message
    assert inspect_checkpoint({"type": kind.__name__, **sizes}, tmp_path / "weights.pth") == [message]
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


def test_config_json_of_hugging_face_is_compared(tmp_path: Path) -> None:
    state = make(BLIP).state_dict()
    renamed = {
        "vision_model.embeddings.class_embedding": state["vision_embed.class_token"].reshape(1, 1, -1),
        "vision_model.embeddings.position_embedding": state["vision_embed.position"][None],
        **linear(state, "vision_embed.patch", "vision_model.embeddings.patch_embedding"),
    }
    text = {name: t.contiguous() for name, t in bert(state, "text", "text_encoder").items()}
    save_file({**renamed, **text}, tmp_path / "model.safetensors")
    config = {"text_config": {"num_attention_heads": 8, "hidden_act": "relu"}, "vision_config": {"hidden_size": 48}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    faults = inspect_checkpoint({"type": "BLIP", **BERT}, tmp_path)
    assert any("set backbone.vision_layers=0" in fault for fault in faults)  # This file has no layers of vision.
    assert any("text_config.num_attention_heads = 8, but backbone.text_heads is 2" in fault for fault in faults)
    [act] = [fault for fault in faults if "hidden_act" in fault]
    assert "text_config.hidden_act = 'relu', but BLIP's act is 'gelu'" in act
    assert "Set backbone.checkpoint to other weights." in act


# Publishing.


def test_published_weights_load_without_the_head_and_with_the_decoder(tmp_path: Path) -> None:
    theirs = make(BLIP, 1, decoder="image", tied=True)
    run = tmp_path / "run"
    run.mkdir()
    state = {f"backbone.{name}": p.detach() for name, p in theirs.named_parameters()}
    torch.save({"state_dict": {**state, "head.queue": torch.ones(3)}}, run / "epoch_1.pth")
    scores = {"i2t_r1": (0.25, "fraction"), "i2t_median_rank": (12.5, "rank")}
    record = {
        "id": "0123456789ab", "created_at": "2026-11-22T03:00:00+00:00", "status": "success",
        "identity": {
            "config_hash": "cd" * 8, "seed": 7, "data": {"name": "scenes", "hash": "ab" * 8, "num_train": 12000},
            "protocol": {"name": "pretrain", "version": 1, "hash": "ef" * 8},
        },
        "components": {"backbone": {"type": "BLIP"}},
        "metrics": {name: {"value": v, "unit": unit, "n": 400, "of": "texts"} for name, (v, unit) in scores.items()},
        "selection": {"learning_rate": 0.001},
        "cost": {"time_s": {"train": 1500.5}},
        "provenance": {"commit": None, "dirty": False, "device": "cpu", "precision": "float32", "command": "train"},
    }  # fmt: skip
    (run / "record.json").write_text(json.dumps(record))
    weights = publish(run / "epoch_1.pth", tmp_path / "blip_nice")
    assert set(load_file(weights)) == {name for name, _ in theirs.named_parameters()}
    card = (tmp_path / "blip_nice" / "CARD.md").read_text()
    for fact in ("vision_width 48", "text_layers 4", "| i2t_r1 | 25.00% | 400 texts |", "_rank | 12.5 | 400 texts |"):
        assert fact in card
    backbone = make(BLIP, 2, decoder="image", tied=True)
    loaded = load_checkpoint(backbone, weights)
    assert (loaded.format, loaded.missing) == ("PETL Zoo", ())
    half = {name: tensor.half().float() for name, tensor in theirs.state_dict().items()}
    equal(backbone, half)
    alone = make(BLIP, 3)
    load_checkpoint(alone, weights)
    equal(alone, half)
