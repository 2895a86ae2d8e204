"""Checkpoints: every format gives the same model, and every bad file a paragraph that says how to go on."""

from __future__ import annotations

import hashlib
import json
import runpy
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from petl_zoo.backbones import CLIP, Backbone, TextBatch
from petl_zoo.backbones.checkpoints import CheckpointError, inspect_checkpoint, load_checkpoint
from petl_zoo.backbones.embeddings import resize_positions
from petl_zoo.backbones.formats import FAMILIES
from petl_zoo.backbones.publish import publish as publish_weights
from petl_zoo.backbones.sources import locate

ROOT = Path(__file__).resolve().parents[2]
SIZES: dict[str, Any] = {
    "image_size": 40, "patch_size": 8, "vision_width": 48, "vision_layers": 3, "vision_heads": 3,
    "text_width": 32, "text_layers": 2, "text_heads": 4, "context_length": 13, "vocabulary": 60,
    "embed_dim": 20,
}  # fmt: skip
State = dict[str, Tensor]


def make(**sizes: Any) -> CLIP:
    return CLIP(**{**SIZES, **sizes}).eval()


@pytest.fixture(scope="module")
def model() -> CLIPModel:
    """Random weights under Hugging Face's names, and the code that says what they compute."""
    tower = {"hidden_act": "quick_gelu", "projection_dim": 20}
    config = CLIPConfig(
        projection_dim=20,
        vision_config={
            "hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": 3, "intermediate_size": 192,
            "image_size": 40, "patch_size": 8, **tower,
        },
        text_config={
            "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 128,
            "vocab_size": 60, "max_position_embeddings": 13, "bos_token_id": 58, "eos_token_id": 59, **tower,
        },
    )  # fmt: skip
    torch.manual_seed(0)
    model = CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def openai(theirs: State) -> State:
    """Write the names of OpenAI's release out, from Hugging Face's: packed projections, bare matrices."""
    state = {
        "visual.conv1.weight": theirs["vision_model.embeddings.patch_embedding.weight"],
        "visual.class_embedding": theirs["vision_model.embeddings.class_embedding"],
        "visual.positional_embedding": theirs["vision_model.embeddings.position_embedding.weight"],
        "visual.proj": theirs["visual_projection.weight"].T.contiguous(),
        "token_embedding.weight": theirs["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": theirs["text_model.embeddings.position_embedding.weight"],
        "text_projection": theirs["text_projection.weight"].T.contiguous(),
        "logit_scale": theirs["logit_scale"],
    }
    for kind in ("weight", "bias"):
        state[f"visual.ln_pre.{kind}"] = theirs[f"vision_model.pre_layrnorm.{kind}"]
        state[f"visual.ln_post.{kind}"] = theirs[f"vision_model.post_layernorm.{kind}"]
        state[f"ln_final.{kind}"] = theirs[f"text_model.final_layer_norm.{kind}"]
        for to, source, depth in (
            ("visual.transformer", "vision_model", 3),
            ("transformer", "text_model", 2),
        ):
            for i in range(depth):
                block, layer = f"{to}.resblocks.{i}", f"{source}.encoder.layers.{i}"
                parts = [theirs[f"{layer}.self_attn.{p}_proj.{kind}"] for p in "qkv"]
                state[f"{block}.attn.in_proj_{kind}"] = torch.cat(parts)
                state[f"{block}.attn.out_proj.{kind}"] = theirs[f"{layer}.self_attn.out_proj.{kind}"]
                state[f"{block}.ln_1.{kind}"] = theirs[f"{layer}.layer_norm1.{kind}"]
                state[f"{block}.ln_2.{kind}"] = theirs[f"{layer}.layer_norm2.{kind}"]
                state[f"{block}.mlp.c_fc.{kind}"] = theirs[f"{layer}.mlp.fc1.{kind}"]
                state[f"{block}.mlp.c_proj.{kind}"] = theirs[f"{layer}.mlp.fc2.{kind}"]
    return state


def torchscript(state: State, path: Path) -> None:
    """Save an archive as OpenAI's are: a module tree of parameters, and three scalars beside them."""
    scalars = {"input_resolution": 40, "context_length": 13, "vocab_size": 60}
    root = nn.Module()
    for name, tensor in {**state, **{key: torch.tensor(value) for key, value in scalars.items()}}.items():
        *parents, leaf = name.split(".")
        parent = root
        for part in parents:
            if not hasattr(parent, part):
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parent.register_buffer(leaf, tensor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit; the format is the point
        torch.jit.save(torch.jit.script(root), str(path))


@pytest.fixture(scope="module")
def expected(model: CLIPModel) -> State:
    return outputs_of(model)


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.tensor([[58, 3, 17, 59, 59], [58, 9, 20, 41, 59]])
    return torch.randn(2, 3, 40, 40, generator=generator), ids


@torch.no_grad()
def outputs_of(model: CLIPModel | CLIP) -> State:
    images, ids = inputs()
    if isinstance(model, CLIP):
        batch = TextBatch(ids, torch.empty(2, 0, dtype=torch.long), torch.tensor([3, 4]), 1, 0, 9)
        return {
            "image": model.encode_image(images),
            "text": model.encode_text(batch),
            "scale": model.logit_scale,
        }
    image = model.visual_projection(model.vision_model(images).pooler_output)
    text = model.text_projection(model.text_model(ids).pooler_output)
    return {"image": image, "text": text, "scale": model.logit_scale.data}


Writer = Callable[[CLIPModel, State, Path], Path]


def as_torchscript(model: CLIPModel, theirs: State, folder: Path) -> Path:
    torchscript(openai(theirs), folder / "ViT-X.pt")
    return folder / "ViT-X.pt"


def as_openai_state(model: CLIPModel, theirs: State, folder: Path) -> Path:
    torch.save(openai(theirs), folder / "state.pt")
    return folder / "state.pt"


def as_old_pickle(model: CLIPModel, theirs: State, folder: Path) -> Path:
    torch.save(openai(theirs), folder / "old.pth", _use_new_zipfile_serialization=False)
    return folder / "old.pth"


def as_open_clip_training(model: CLIPModel, theirs: State, folder: Path) -> Path:
    state = {f"module.{name}": tensor for name, tensor in openai(theirs).items()}
    state["module.logit_scale"] = state["module.logit_scale"].reshape(1)
    state["module.attn_mask"] = torch.zeros(13, 13)
    torch.save(
        {"epoch": 3, "name": "run", "state_dict": state, "optimizer": {"state": {}}}, folder / "epoch_3.pt"
    )
    return folder / "epoch_3.pt"


def as_open_clip_folder(model: CLIPModel, theirs: State, folder: Path) -> Path:
    save_file(openai(theirs), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text("{}")
    return folder


def as_hugging_face_folder(model: CLIPModel, theirs: State, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def as_hugging_face_shards(model: CLIPModel, theirs: State, folder: Path) -> Path:
    model.save_pretrained(folder, max_shard_size="100KB")
    assert (folder / "model.safetensors.index.json").is_file()
    return folder


def as_hugging_face_file(model: CLIPModel, theirs: State, folder: Path) -> Path:
    save_file({k: v.contiguous() for k, v in theirs.items()}, folder / "alone.safetensors")
    return folder / "alone.safetensors"


def as_pytorch_model_bin(model: CLIPModel, theirs: State, folder: Path) -> Path:
    buffer = {"text_model.embeddings.position_ids": torch.arange(13)[None]}  # old transformers saved it
    torch.save({**theirs, **buffer}, folder / "pytorch_model.bin")
    return folder


def as_own(model: CLIPModel, theirs: State, folder: Path) -> Path:
    backbone = make()
    load_checkpoint(backbone, as_openai_state(model, theirs, folder))
    save_file(backbone.state_dict(), folder / "own.safetensors")
    return folder / "own.safetensors"


def as_own_training(model: CLIPModel, theirs: State, folder: Path) -> Path:
    own = load_file(as_own(model, theirs, folder))
    state = {**{f"backbone.{name}": tensor for name, tensor in own.items()}, "head.weight": torch.zeros(3)}
    torch.save({"meta": {"epoch": 1}, "state_dict": state, "optimizer": {}}, folder / "epoch_1.pth")
    return folder / "epoch_1.pth"


WRITERS: list[tuple[Writer, str]] = [
    (as_torchscript, "OpenAI or open_clip"),
    (as_openai_state, "OpenAI or open_clip"),
    (as_old_pickle, "OpenAI or open_clip"),
    (as_open_clip_training, "OpenAI or open_clip"),
    (as_open_clip_folder, "OpenAI or open_clip"),
    (as_hugging_face_folder, "Hugging Face CLIPModel"),
    (as_hugging_face_shards, "Hugging Face CLIPModel"),
    (as_hugging_face_file, "Hugging Face CLIPModel"),
    (as_pytorch_model_bin, "Hugging Face CLIPModel"),
    (as_own, "PETL Zoo"),
    (as_own_training, "PETL Zoo"),
]


@pytest.mark.parametrize(("write", "name"), WRITERS, ids=[w.__name__[3:] for w, _ in WRITERS])
def test_every_format_computes_the_same(
    model: CLIPModel, expected: State, tmp_path: Path, write: Writer, name: str
) -> None:
    source = write(model, model.state_dict(), tmp_path)
    backbone = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert inspect_checkpoint(backbone, source) == []
        loaded = load_checkpoint(backbone, source)
    for key, value in outputs_of(backbone).items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=1e-5)
    assert (loaded.source, loaded.format, loaded.tensors) == (str(source), name, len(backbone.state_dict()))
    if loaded.path.is_file():
        assert loaded.sha256 == hashlib.sha256(loaded.path.read_bytes()).hexdigest()


def test_hash_of_shards_covers_every_shard(model: CLIPModel, tmp_path: Path) -> None:
    folder = as_hugging_face_shards(model, model.state_dict(), tmp_path)
    first = load_checkpoint(make(), folder).sha256
    last = locate(str(folder))[-1]
    state = load_file(last)
    save_file({name: tensor + 1 for name, tensor in state.items()}, last)
    assert load_checkpoint(make(), folder).sha256 != first


def test_half_precision_is_cast_to_the_dtype_of_the_backbone(model: CLIPModel, tmp_path: Path) -> None:
    half = {name: tensor.half() for name, tensor in model.state_dict().items()}
    save_file(half, tmp_path / "half.safetensors")
    backbone = make()
    load_checkpoint(backbone, tmp_path / "half.safetensors")
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}
    assert torch.equal(backbone.vision_norm.weight, half["vision_model.post_layernorm.weight"].float())


def test_backbone_on_the_meta_device_is_given_the_weights(
    model: CLIPModel, expected: State, tmp_path: Path
) -> None:
    source = as_torchscript(model, model.state_dict(), tmp_path)
    with torch.device("meta"):
        backbone = make()
    load_checkpoint(backbone, source)
    assert all(p.requires_grad and p.device.type == "cpu" for p in backbone.parameters())
    storages = {p.untyped_storage().data_ptr() for p in backbone.parameters()}
    assert len(storages) == len(list(backbone.parameters()))  # q, k and v do not share one
    for key, value in outputs_of(backbone).items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=1e-5)


def test_positions_are_resized_for_another_image_size(model: CLIPModel, tmp_path: Path) -> None:
    source = as_hugging_face_folder(model, model.state_dict(), tmp_path)
    backbone = make(image_size=64)
    load_checkpoint(backbone, source)
    table = model.vision_model.embeddings.position_embedding.weight
    assert torch.equal(backbone.vision_embed.position[0], table[0])
    torch.testing.assert_close(backbone.vision_embed.position, resize_positions(table, 8), rtol=0, atol=0)
    assert backbone.encode_image(torch.zeros(1, 3, 64, 64)).shape == (1, 20)


def test_allow_missing_leaves_what_the_file_lacks(model: CLIPModel, tmp_path: Path) -> None:
    state = model.state_dict()
    del state["logit_scale"], state["visual_projection.weight"]
    torch.save(state, tmp_path / "part.pt")
    with pytest.raises(CheckpointError, match=r"missing: vision_proj\.weight\.") as caught:
        load_checkpoint(make(allow_missing=["logit_scale"]), tmp_path / "part.pt")
    assert "logit_scale" not in str(caught.value)
    assert "backbone.allow_missing" in str(caught.value)
    backbone = make(allow_missing=["logit_scale", "vision_proj.*"])
    before = backbone.vision_proj.weight.clone()
    loaded = load_checkpoint(backbone, tmp_path / "part.pt")
    assert torch.equal(backbone.vision_proj.weight, before)
    assert loaded.tensors == len(backbone.state_dict()) - 2


def test_sizes_are_read_from_shapes() -> None:
    heads = {"vision_heads", "text_heads"}  # Shapes do not tell.
    assert FAMILIES["CLIP"].sizes(make().state_dict()) == {k: v for k, v in SIZES.items() if k not in heads}


@pytest.mark.parametrize("release", FAMILIES["CLIP"].releases)
def test_published_sizes_are_recognised_with_their_heads(release: str) -> None:
    sizes: dict[str, Any] = dict(FAMILIES["CLIP"].releases[release].sizes)
    with torch.device("meta"):
        backbone = CLIP(**sizes)
    assert FAMILIES["CLIP"].sizes(backbone.state_dict()) == sizes
    assert FAMILIES["CLIP"].release(sizes) == release
    assert (sizes["vision_heads"], sizes["text_heads"]) == (
        sizes["vision_width"] // 64,
        sizes["text_width"] // 64,
    )


# Bad input. Each case: what is at the path, and what the message must say.


def save(state: Any, path: Path) -> Path:
    torch.save(state, path)
    return path


def truncated(model: CLIPModel, folder: Path, name: str) -> Path:
    save_file(model.state_dict(), folder / "x.safetensors")
    save(model.state_dict(), folder / "x.pt")
    old_pickle(model.state_dict(), folder / "x.pth")
    path = folder / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def names(*parts: str) -> State:
    return {part: torch.zeros(2) for part in parts}


TRUNCATED = ["truncated, damaged or no checkpoint", "Get it again", "checksum"]
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
SHARD = b'{"weight_map": {"a": "one.safetensors"}}'

BAD: dict[str, tuple[Callable[[CLIPModel, Path], Path | str], list[str]]] = {
    "missing file": (
        lambda m, d: written(d / "ViT-B-16.pt", b"x").with_name("ViT-B16.pt"),
        ["there is no such file or folder", "Did you mean", "ViT-B-16.pt?", "Set backbone.checkpoint"],
    ),
    "empty file": (lambda m, d: written(d / "a.pt", b""), ["is empty (0 bytes)", "Get it again"]),
    "truncated safetensors": (lambda m, d: truncated(m, d, "x.safetensors"), TRUNCATED),
    "truncated zip": (lambda m, d: truncated(m, d, "x.pt"), TRUNCATED),
    "truncated old pickle": (lambda m, d: truncated(m, d, "x.pth"), TRUNCATED),
    "text": (lambda m, d: written(d / "a.pt", b"<!DOCTYPE html>"), ["(15 bytes)", *TRUNCATED, "Allowed are"]),
    "zip of something else": (lambda m, d: other_zip(d / "a.pt"), ["no checkpoint", "Allowed are"]),
    "git-lfs pointer": (lambda m, d: written(d / "a.bin", POINTER), ["git-lfs pointer", "git lfs pull"]),
    "folder without weights": (
        lambda m, d: written(d / "notes.txt", b"").parent,
        ["holds no weights, only notes.txt", "model.safetensors", "Set backbone.checkpoint"],
    ),
    "index without shards": (
        lambda m, d: written(d / "model.safetensors.index.json", SHARD).parent,
        ["of its 1 shards these are missing: one.safetensors"],
    ),
    "broken index": (
        lambda m, d: written(d / "model.safetensors.index.json", b"{").parent,
        ["no shard index", "weight_map"],
    ),
    "foreign objects": (
        lambda m, d: save({"state_dict": m.state_dict(), "args": Namespace(lr=1)}, d / "a.pt"),
        ["refused", "argparse.Namespace", "can run any code", "torch.save(model.state_dict()"],
    ),
    "foreign objects, old pickle": (
        lambda m, d: old_pickle({"args": Namespace(lr=1)}, d / "a.pt"),
        ["refused", "argparse.Namespace"],
    ),
    "no tensors": (
        lambda m, d: save({"epoch": 3}, d / "a.pt"),
        ["no named tensors, but an object of type dict"],
    ),
    "a list": (
        lambda m, d: save([torch.zeros(2)], d / "a.pt"),
        ["no named tensors, but an object of type list"],
    ),
    "unknown zoo name": (lambda m, d: "zoo:clip_tinny", ["zoo:clip_tinny: no such weights ship"]),
}


def other_zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "hello")
    return path


def old_pickle(content: object, path: Path) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


@pytest.mark.parametrize("case", BAD)
def test_bad_source_is_told_in_one_paragraph(model: CLIPModel, tmp_path: Path, case: str) -> None:
    arrange, phrases = BAD[case]
    source = arrange(model, tmp_path)
    backbone = make()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(backbone, source)
    message = str(caught.value)
    for phrase in (*phrases, str(source)):
        assert phrase in message
    assert "\n" not in message
    assert inspect_checkpoint({"type": "CLIP", **SIZES}, source) == [message]
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


@pytest.mark.parametrize(
    ("held", "family"),
    [
        (["visual_encoder.cls_token", "text_encoder.embeddings.x"], "a BLIP or ALBEF checkpoint"),
        (["vision_model.post_layernorm.bias", "text_decoder.x"], "a BLIP or ALBEF checkpoint"),
        (["beit3.text_embed.weight"], "a BEiT-3 checkpoint"),
        (["vision_model.head.probe", "text_model.head.bias"], "a SigLIP checkpoint"),
        (["bert.embeddings.word_embeddings.weight"], "a BERT checkpoint"),
        (["cls_token", "blocks.0.norm1.weight"], "a ViT without a text tower"),
        (["visual.layer1.0.conv1.weight", "visual.conv1.weight"], "a CLIP with a ResNet"),
        (["vision_model.pre_layrnorm.bias", "visual_projection.weight"], "a vision tower alone"),
        (["text_model.final_layer_norm.bias"], "a text tower alone"),
        (["tuner.prompts"], "a tuner's checkpoint of this project"),
        (["a", "b"], "of no family known here"),
    ],
)
def test_another_family_is_named(tmp_path: Path, held: list[str], family: str) -> None:
    save({"model": names(*held)}, tmp_path / "a.pth")
    [fault] = inspect_checkpoint(make(), tmp_path / "a.pth")
    assert f"a.pth: no CLIP checkpoint, but {family}" in fault
    assert f"its {len(held)} names begin with {held[0]}" in fault
    assert "Allowed names are those of OpenAI or open_clip, Hugging Face CLIPModel, PETL Zoo." in fault
    assert "choose the backbone that the file belongs to" in fault


def test_another_release_is_named_with_its_config(tmp_path: Path) -> None:
    large: dict[str, Any] = dict(FAMILIES["CLIP"].releases["ViT-L/14@336px"].sizes)
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in CLIP(**large).state_dict().items()}
    # Tensors of one element, expanded: the file is small and its shapes are those of ViT-L/14.
    state = {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}
    torch.save(state, tmp_path / "large.pt")
    [fault] = inspect_checkpoint({"type": "CLIP"}, tmp_path / "large.pt")
    assert (
        "this is a CLIP ViT-L/14@336px checkpoint (patch_size 14, vision_width 1024, vision_layers 24,"
        in fault
    )
    assert "but the config says ViT-B/16 (patch_size 16, vision_width 768, vision_layers 12," in fault
    assert "use configs/_base_/backbones/clip_vit_l14_336.py" in fault


def test_wrong_heads_are_found_where_the_sizes_are_published_ones(tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in CLIP().state_dict().items()}
    torch.save({name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}, tmp_path / "base.pt")
    assert inspect_checkpoint({"type": "CLIP"}, tmp_path / "base.pt") == []
    assert inspect_checkpoint({"type": "CLIP", "image_size": 320}, tmp_path / "base.pt") == []
    [fault] = inspect_checkpoint({"type": "CLIP", "text_heads": 16}, tmp_path / "base.pt")
    assert "a CLIP ViT-B/16 checkpoint (text_heads 8), but the config says otherwise (text_heads 16)" in fault
    assert "use configs/_base_/backbones/clip_vit_b16.py" in fault


@pytest.mark.parametrize(
    ("key", "held", "wanted"), [("context_length", 13, 16), ("vision_layers", 3, 4), ("patch_size", 8, 10)]
)
def test_other_sizes_are_told_by_the_keys_of_the_config(
    model: CLIPModel, tmp_path: Path, key: str, held: int, wanted: int
) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(make(**{key: wanted}), as_hugging_face_folder(model, model.state_dict(), tmp_path))
    message = str(caught.value)
    assert (
        f"this is a CLIP checkpoint ({key} {held}), but the config says otherwise ({key} {wanted})" in message
    )
    assert (
        f"set backbone.{key}={held}, or set backbone.checkpoint to weights of the config's sizes" in message
    )


def test_backbone_without_a_format_is_told(tmp_path: Path) -> None:
    save(names("a"), tmp_path / "a.pt")
    [fault] = inspect_checkpoint(Backbone(), tmp_path / "a.pt")
    assert "no checkpoint format of Backbone is known; known are those of CLIP" in fault


def test_heads_and_activation_are_compared_with_config_json(model: CLIPModel, tmp_path: Path) -> None:
    folder = as_hugging_face_folder(model, model.state_dict(), tmp_path)
    faults = inspect_checkpoint({"type": "CLIP", **SIZES, "text_heads": 8}, folder)
    assert len(faults) == 1
    assert "text_config.num_attention_heads = 4, but backbone.text_heads is 8" in faults[0]
    faults = inspect_checkpoint({"type": "CLIP", **SIZES, "act": "gelu"}, folder)
    assert len(faults) == 2  # each tower's
    assert "vision_config.hidden_act = 'quick_gelu', but backbone.act is 'gelu'" in faults[0]
    assert "Set backbone.act=quick_gelu" in faults[0]


def test_missing_unexpected_and_misshapen_names_come_at_once(model: CLIPModel, tmp_path: Path) -> None:
    state = openai(model.state_dict())
    del state["ln_final.bias"], state["transformer.resblocks.1.attn.in_proj_bias"]
    state["visual.attn_pool.query"] = torch.zeros(3)
    state["visual.transformer.resblocks.0.ln_3.weight"] = torch.zeros(3)
    state["visual.ln_post.weight"] = torch.zeros(47)
    torch.save(state, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(make(), tmp_path / "odd.pt")
    message = str(caught.value)
    lost = [f"text.layers.1.attn.{part}.bias" for part in "qkv"]
    assert f"missing: {', '.join(lost)}, text_norm.bias" in message
    assert "unexpected: visual.attn_pool.query, visual.transformer.resblocks.0.ln_3.weight" in message
    assert "of another shape: vision_norm.weight (47,) instead of (48,)" in message


def test_table_that_is_no_square_grid_is_told(model: CLIPModel, tmp_path: Path) -> None:
    state = model.state_dict()
    state["vision_model.embeddings.position_embedding.weight"] = torch.zeros(1 + 20, 48)
    torch.save(state, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=r"vision_embed\.position \(.*20 rows.*not a square grid"):
        load_checkpoint(make(), tmp_path / "odd.pt")


def test_hub_id_is_read_from_the_local_cache(
    model: CLIPModel, expected: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--some--clip"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    as_pytorch_model_bin(model, model.state_dict(), snapshot)  # the second name that is looked for
    backbone = make()
    loaded = load_checkpoint(backbone, "some/clip")
    assert loaded.source == "some/clip"
    torch.testing.assert_close(outputs_of(backbone)["image"], expected["image"], rtol=0, atol=1e-5)


def test_hub_id_without_a_network_says_how_to_get_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    [fault] = inspect_checkpoint(make(), "openai/clip-vit-base-patch16")
    assert "there is no network, and it is not in the local cache" in fault
    assert "hf download openai/clip-vit-base-patch16 --local-dir DIR" in fault
    assert "set backbone.checkpoint=DIR" in fault


def test_a_missing_file_in_a_folder_is_no_hub_id() -> None:
    with pytest.raises(CheckpointError, match=r"^weights/ViT-B-16\.pt: there is no such file or folder\."):
        load_checkpoint(make(), "weights/ViT-B-16.pt")


# Publishing.


def work_dir(model: CLIPModel, folder: Path, status: str = "success") -> Path:
    run = folder / "run"
    run.mkdir()
    own = load_file(as_own(model, model.state_dict(), folder))
    state = {f"backbone.{name}": tensor for name, tensor in own.items()}
    for epoch, scale in ((9, 0.0), (10, 1.0)):
        content = {
            "meta": {"format": 1},
            "state_dict": {name: scale * tensor for name, tensor in state.items()},
        }
        torch.save(content, run / f"epoch_{epoch}.pth")
    data = {"name": "glyphs", "hash": "ab" * 8, "num_train": 12000, "num_test": 690, "shots": None}
    record = {
        "id": "0123456789ab", "created_at": "2026-11-22T03:00:00+00:00", "status": status,
        "identity": {
            "config_hash": "cd" * 8, "seed": 7, "data": data,
            "protocol": {"name": "pretrain", "version": 1, "hash": "ef" * 8},
        },
        "components": {"backbone": {"type": "CLIP", "name": "clip_tiny"}},
        "metrics": {"accuracy": {"value": 0.6125, "unit": "fraction", "n": 690, "of": "images"}},
        "selection": {"learning_rate": 0.001},
        "cost": {"time_s": {"train": 1500.5}},
        "provenance": {
            "commit": "12" * 20, "dirty": False, "device": "cpu", "precision": "float32",
            "command": "tools/train.py configs/pretrain/clip_tiny.py",
        },
    }  # fmt: skip
    (run / "record.json").write_text(json.dumps(record))
    return run


def publish(*arguments: str | Path) -> int:
    """Run tools/publish.py and return its exit code."""
    main: Callable[[list[str]], int] = runpy.run_path(str(ROOT / "tools" / "publish.py"))["main"]
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as error:  # argparse's way out
        return int(error.code or 0)


def test_published_weights_load_and_their_card_tells_the_run(
    model: CLIPModel,
    expected: State,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "weights" / "clip_nice"
    out.mkdir(parents=True)
    (out / "tokenizer.json").write_text("{}")
    assert publish(work_dir(model, tmp_path), "--out", out) == 0
    assert str(out / "model.safetensors") in capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir()) == ["CARD.md", "model.safetensors", "tokenizer.json"]
    assert {t.dtype for t in load_file(out / "model.safetensors").values()} == {torch.float16}
    monkeypatch.setattr("petl_zoo.backbones.sources.WEIGHTS", tmp_path / "weights")
    backbone = make()
    loaded = load_checkpoint(backbone, "zoo:clip_nice")
    for key, value in outputs_of(backbone).items():
        torch.testing.assert_close(value, expected[key], rtol=0.02, atol=0.02)  # fp16 keeps eleven bits
    card = (out / "CARD.md").read_text()
    for fact in (
        "# clip_nice",
        loaded.sha256,
        "glyphs (12,000 training samples",
        "`tools/train.py configs/pretrain/clip_tiny.py`",
        "vision_width 48",
        "| Seed | 7 |",
        f"| Commit | {'12' * 20} |",
        "0123456789ab",
        "| accuracy | 61.25% | 690 images |",
    ):
        assert fact in card
    [fault] = inspect_checkpoint(backbone, "zoo:clip_nicer")
    assert "these do: clip_nice." in fault


@pytest.mark.parametrize(
    ("spoil", "phrase"),
    [
        (lambda run: (run / "record.json").unlink(), "there is no readable record"),
        (lambda run: [p.unlink() for p in run.glob("*.pth")], "holds no readable checkpoint"),
        (
            lambda run: save({"meta": {"format": 1}, "state_dict": names("tuner.p")}, run / "epoch_10.pth"),
            "no whole CLIP",
        ),
        (
            lambda run: spoil_weight(run / "epoch_10.pth"),
            "not finite in fp16 (at most 65504): text_norm.weight",
        ),
    ],
    ids=["record", "checkpoint", "tuner", "overflow"],
)
def test_what_cannot_be_published_leaves_nothing_behind(
    model: CLIPModel,
    tmp_path: Path,
    spoil: Callable[[Path], object],
    phrase: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = work_dir(model, tmp_path)
    spoil(run)
    assert publish(run, "--out", tmp_path / "out") == 2
    assert phrase in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_failed_run_is_not_published(model: CLIPModel, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="status is 'failed'"):
        publish_weights(work_dir(model, tmp_path, status="failed") / "epoch_10.pth", tmp_path / "out")


def spoil_weight(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    content["state_dict"]["backbone.text_norm.weight"] *= 1e9
    torch.save(content, path)
