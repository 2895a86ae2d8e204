"""Checkpoint formats as tables: which names a file holds, and which of our names each becomes.

A table maps a name in the file to ours. ``#`` stands for a layer's number and ``*`` for the rest of the name,
on both sides; ``{q,k,v}`` cuts a packed projection into equal parts along its first axis, a final ``.T``
transposes a matrix, and a final ``[2:]`` or ``[0,0]`` takes that part of a tensor.
A new backbone adds a ``Family``: tables and a function that reads sizes from shapes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import Tensor

__all__ = ["FAMILIES", "Family", "Format", "Release", "layer_count", "recognise"]

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Format:
    """One way in which files name a model's tensors.

    Attributes:
        name: what messages call it.
        marks: names that every file of this format holds, and no file of another format that a table knows.
        names: a name in the file -> ours, in the notation of this module; the first line that fits counts.
        drop: names that hold no weights of the backbone, as shell patterns; they are asked where no line fits.
    """

    name: str
    marks: tuple[str, ...]
    names: Mapping[str, str]
    drop: tuple[str, ...] = ()

    def convert(self, state: State) -> tuple[dict[str, Tensor], list[str]]:
        """Give tensors our names, as views of what is in the file.

        Returns:
            The tensors by our names, and the file's names that the table does not know.
        """
        lines = [(_regex(source), target) for source, target in self.names.items()]
        converted: dict[str, Tensor] = {}
        unknown = []
        for name, tensor in state.items():
            for regex, target in lines:
                match = regex.fullmatch(name)
                if match is not None:
                    converted.update(_assign(target, match.groupdict(), tensor))
                    break
            else:
                if not any(fnmatchcase(name, pattern) for pattern in self.drop):
                    unknown.append(name)
        return converted, unknown


def _regex(source: str) -> re.Pattern[str]:
    return re.compile(re.escape(source).replace(r"\#", r"(?P<layer>\d+)").replace(r"\*", r"(?P<rest>.+)"))


def _assign(target: str, found: Mapping[str, str], tensor: Tensor) -> dict[str, Tensor]:
    if target.endswith(".T"):
        target, tensor = target.removesuffix(".T"), tensor.T
    part = re.fullmatch(r"(.+)\[([\d:,]+)\]", target)
    if part is not None:
        target, tensor = part[1], _part(tensor, part[2])
    name = target.replace("#", found.get("layer", "")).replace("*", found.get("rest", ""))
    packed = re.search(r"\{(.+?)\}", name)
    if packed is None:
        return {name: tensor}
    parts = packed[1].split(",")
    return {name.replace(packed[0], part): t for part, t in zip(parts, tensor.chunk(len(parts)), strict=False)}


def _part(tensor: Tensor, index: str) -> Tensor:
    """``tensor[index]``; the tensor itself if it has not these axes, so that its shape is what is told."""
    axes = [slice(int(i[:-1]), None) if i.endswith(":") else int(i) for i in index.split(",")]
    try:
        return tensor[tuple(axes)]
    except IndexError:
        return tensor


@dataclass(frozen=True)
class Release:
    """Published weights: the base config for them, and their sizes by the constructor's keywords.

    Sizes that differ between files of one release, such as the image's, are left out.
    """

    config: str
    sizes: Mapping[str, int]


def _no_seeds(own: State, state: State) -> dict[str, str]:
    return {}


@dataclass(frozen=True)
class Family:
    """What is known about the files of one backbone class.

    Attributes:
        name: what messages call the family.
        formats: the formats its files come in.
        positions: our names of position tables over an image grid -> rows in front of the grid.
        measure: reads the constructor's keywords from the shapes of tensors under our names; raises a KeyError if a
            tensor that tells a size is missing.
        heads: the backbone's towers -> the keyword of their number of attention heads, which no shape tells.
        releases: published weights by name.
        parts: parts of ours, as shell patterns, that a file may lack as a whole: they keep their initialisation.
        spare: those of them that a file may hold though the backbone was built without.
        seeds: says what a part that the file lacks starts from: from the backbone's tensors and the file's, under our
            names, the name of one -> the name of the other to take.
    """

    name: str
    formats: tuple[Format, ...]
    positions: Mapping[str, int]
    measure: Callable[[State], dict[str, int]]
    heads: Mapping[str, str]
    releases: Mapping[str, Release] = field(default_factory=dict)
    parts: tuple[str, ...] = ()
    spare: tuple[str, ...] = ()
    seeds: Callable[[State, State], dict[str, str]] = _no_seeds

    def detect(self, state: State) -> Format | None:
        """The format of a state dict, by the names in it."""
        return next((f for f in self.formats if all(mark in state for mark in f.marks)), None)

    def sizes(self, state: State) -> dict[str, int]:
        """Read a model's sizes, by the keywords of its constructor, from tensors under our names.

        Head counts do not show in shapes; they are given where the sizes are those of published weights.

        Raises:
            KeyError: a tensor that tells a size is missing.
        """
        sizes = self.measure(state)
        known = self.release(sizes)
        return sizes if known is None else {**sizes, **self.releases[known].sizes}

    def release(self, sizes: Mapping[str, int]) -> str | None:
        """The name of the published weights that have these sizes, as far as they are given."""
        for name, release in self.releases.items():
            if all(sizes.get(key, size) == size for key, size in release.sizes.items()):
                return name
        return None


# Sizes from shapes.


def _image_sizes(state: State) -> dict[str, int]:
    patch = state["vision_embed.patch.weight"].shape[-1]
    grid = round((state["vision_embed.position"].shape[-2] - 1) ** 0.5)
    return {"image_size": grid * patch, "patch_size": patch}


def _text_sizes(state: State) -> dict[str, int]:
    return {
        "context_length": state["text_embed.position"].shape[-2],
        "vocabulary": len(state["text_embed.token.weight"]),
    }


def _two_tower_sizes(state: State) -> dict[str, int]:
    return {
        **_image_sizes(state),
        "vision_width": len(state["vision_embed.patch.weight"]),
        "vision_layers": layer_count(state, "vision"),
        "text_width": state["text_embed.token.weight"].shape[1],
        "text_layers": layer_count(state, "text"),
        **_text_sizes(state),
    }


def _clip_sizes(state: State) -> dict[str, int]:
    return {**_two_tower_sizes(state), "embed_dim": len(state["text_proj.weight"])}


def _blip_sizes(state: State) -> dict[str, int]:
    sizes = _two_tower_sizes(state)
    # Files for questions have no projections.
    return {**sizes, "embed_dim": len(state["text_proj.weight"])} if "text_proj.weight" in state else sizes


def _albef_sizes(state: State) -> dict[str, int]:
    fused = (re.match(r"text\.layers\.(\d+)\.cross\.", name) for name in state)
    first = min((int(match[1]) for match in fused if match), default=layer_count(state, "text"))
    return {**_blip_sizes(state), "fusion_layer": first}


def _beit3_sizes(state: State) -> dict[str, int]:
    width = len(state["vision_embed.patch.weight"])
    return {**_image_sizes(state), "width": width, "layers": layer_count(state, "encoder"), **_text_sizes(state)}


def layer_count(names: Iterable[str], tower: str) -> int:
    """The number of a tower's layers, by our names."""
    found = (re.match(rf"{tower}\.layers\.(\d+)\.", name) for name in names)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


# Tables.


def _layers(source: str, target: str, names: Mapping[str, str]) -> dict[str, str]:
    return {f"{source}.#.{theirs}": f"{target}.layers.#.{ours}" for theirs, ours in names.items()}


def _own(*marks: str) -> Format:
    return Format(name="PETL Zoo", marks=marks, names={"*": "*"})


_OPENAI_LAYER = {
    "attn.in_proj_*": "attn.{q,k,v}.*",
    "attn.out_proj.*": "attn.out.*",
    "ln_1.*": "norm1.*",
    "ln_2.*": "norm2.*",
    "mlp.c_fc.*": "fc1.*",
    "mlp.c_proj.*": "fc2.*",
}
_HUGGING_FACE_LAYER = {
    "self_attn.q_proj.*": "attn.q.*",
    "self_attn.k_proj.*": "attn.k.*",
    "self_attn.v_proj.*": "attn.v.*",
    "self_attn.out_proj.*": "attn.out.*",
    # BLIP packs them, and calls the output otherwise.
    "self_attn.qkv.*": "attn.{q,k,v}.*",
    "self_attn.projection.*": "attn.out.*",
    "layer_norm1.*": "norm1.*",
    "layer_norm2.*": "norm2.*",
    "mlp.fc1.*": "fc1.*",
    "mlp.fc2.*": "fc2.*",
}
_VIT_LAYER = {
    "attn.qkv.*": "attn.{q,k,v}.*",
    "attn.proj.*": "attn.out.*",
    "norm1.*": "norm1.*",
    "norm2.*": "norm2.*",
    "mlp.fc1.*": "fc1.*",
    "mlp.fc2.*": "fc2.*",
}
_BERT_LAYER = {
    "attention.self.query.*": "attn.q.*",
    "attention.self.key.*": "attn.k.*",
    "attention.self.value.*": "attn.v.*",
    "attention.output.dense.*": "attn.out.*",
    "attention.output.LayerNorm.*": "norm1.*",
    "crossattention.self.query.*": "cross.q.*",
    "crossattention.self.key.*": "cross.k.*",
    "crossattention.self.value.*": "cross.v.*",
    "crossattention.output.dense.*": "cross.out.*",
    "crossattention.output.LayerNorm.*": "norm_cross.*",
    "intermediate.dense.*": "fc1.*",
    "output.dense.*": "fc2.*",
    "output.LayerNorm.*": "norm2.*",
}
_MULTIWAY_LAYER = {
    f"{theirs}.{letter}.*": f"{ours}.{expert}.*"
    for letter, expert in (("A", "vision"), ("B", "text"))
    for theirs, ours in {
        "self_attn.q_proj": "attn.q",
        "self_attn.k_proj": "attn.k",
        "self_attn.v_proj": "attn.v",
        "self_attn.out_proj": "attn.out",
        "self_attn.inner_attn_ln": "attn.norm",
        "self_attn_layer_norm": "norm1",
        "final_layer_norm": "norm2",
    }.items()
} | {
    f"ffn.{letter}.{theirs}.*": f"{ours}.{expert}.*"
    for letter, expert in (("A", "vision"), ("B", "text"))
    for theirs, ours in {"fc1": "fc1", "fc2": "fc2", "ffn_layernorm": "norm_hidden"}.items()
}

CLIP_OPENAI = Format(
    name="OpenAI or open_clip",
    marks=("visual.class_embedding", "visual.ln_pre.weight", "token_embedding.weight"),
    names={
        "visual.conv1.weight": "vision_embed.patch.weight",
        "visual.class_embedding": "vision_embed.class_token",
        "visual.positional_embedding": "vision_embed.position",
        "visual.ln_pre.*": "vision_embed.norm.*",
        **_layers("visual.transformer.resblocks", "vision", _OPENAI_LAYER),
        "visual.ln_post.*": "vision_norm.*",
        "visual.proj": "vision_proj.weight.T",
        "token_embedding.weight": "text_embed.token.weight",
        "positional_embedding": "text_embed.position",
        **_layers("transformer.resblocks", "text", _OPENAI_LAYER),
        "ln_final.*": "text_norm.*",
        "text_projection": "text_proj.weight.T",
        "logit_scale": "logit_scale",
    },
    drop=("input_resolution", "context_length", "vocab_size", "attn_mask"),
)
CLIP_HUGGING_FACE = Format(
    name="Hugging Face CLIPModel",
    marks=(
        "vision_model.embeddings.class_embedding",
        "vision_model.pre_layrnorm.weight",
        "text_model.embeddings.token_embedding.weight",
    ),
    names={
        "vision_model.embeddings.patch_embedding.weight": "vision_embed.patch.weight",
        "vision_model.embeddings.class_embedding": "vision_embed.class_token",
        "vision_model.embeddings.position_embedding.weight": "vision_embed.position",
        "vision_model.pre_layrnorm.*": "vision_embed.norm.*",
        **_layers("vision_model.encoder.layers", "vision", _HUGGING_FACE_LAYER),
        "vision_model.post_layernorm.*": "vision_norm.*",
        # Linear layers there, (out, in) as ours; OpenAI's are bare matrices, (in, out).
        "visual_projection.weight": "vision_proj.weight",
        "text_model.embeddings.token_embedding.weight": "text_embed.token.weight",
        "text_model.embeddings.position_embedding.weight": "text_embed.position",
        **_layers("text_model.encoder.layers", "text", _HUGGING_FACE_LAYER),
        "text_model.final_layer_norm.*": "text_norm.*",
        "text_projection.weight": "text_proj.weight",
        "logit_scale": "logit_scale",
    },
    drop=("*.position_ids",),
)


def _bert(source: str, target: str) -> dict[str, str]:
    return {
        f"{source}.embeddings.word_embeddings.weight": f"{target}_embed.token.weight",
        f"{source}.embeddings.position_embeddings.weight": f"{target}_embed.position",
        f"{source}.embeddings.token_type_embeddings.weight": f"{target}_embed.segment",
        f"{source}.embeddings.LayerNorm.*": f"{target}_embed.norm.*",
        **_layers(f"{source}.encoder.layer", target, _BERT_LAYER),
    }


def _word_head(source: str, target: str) -> dict[str, str]:
    return {
        f"{source}.predictions.transform.dense.*": f"{target}.dense.*",
        f"{source}.predictions.transform.LayerNorm.*": f"{target}.norm.*",
        f"{source}.predictions.bias": f"{target}.bias",
    }


_VIT = {
    "visual_encoder.cls_token": "vision_embed.class_token[0,0]",
    "visual_encoder.pos_embed": "vision_embed.position[0]",
    "visual_encoder.patch_embed.proj.*": "vision_embed.patch.*",
    **_layers("visual_encoder.blocks", "vision", _VIT_LAYER),
    "visual_encoder.norm.*": "vision_norm.*",
}
_DECODER = {**_bert("text_decoder.bert", "decoder"), **_word_head("text_decoder.cls", "decoder_head")}
_PAIR_HEADS = {
    "vision_proj.*": "vision_proj.*",
    "text_proj.*": "text_proj.*",
    "itm_head.*": "itm_head.*",
    "temp": "temp",
}
# Names that PyTorch saves a second time, and tables of 0, 1, 2, ...
_REPEATED = ("*.cls.predictions.decoder.weight", "*.cls.predictions.decoder.bias", "*.position_ids")
# Momentum copies by the modules' names: "_m" alone would fit others, such as itm_head.
_MOMENTUM = (
    *(f"{copy}_m.*" for copy in ("visual_encoder", "text_encoder", "text_decoder", "vision_proj", "text_proj")),
    "combine_*",
    *("image_queue", "text_queue", "idx_queue", "ptr_queue", "queue_ptr"),
)

BLIP_OFFICIAL = Format(
    name="official BLIP",
    marks=("visual_encoder.cls_token", "text_encoder.encoder.layer.0.crossattention.self.query.weight"),
    names={**_VIT, **_bert("text_encoder", "text"), **_DECODER, **_PAIR_HEADS},
    drop=(*_REPEATED, *_MOMENTUM),
)
BLIP_HUGGING_FACE = Format(
    name="Hugging Face BLIP",
    marks=(
        "vision_model.embeddings.class_embedding",
        "text_encoder.encoder.layer.0.crossattention.self.query.weight",
    ),
    names={
        "vision_model.embeddings.class_embedding": "vision_embed.class_token[0,0]",
        "vision_model.embeddings.position_embedding": "vision_embed.position[0]",
        "vision_model.embeddings.patch_embedding.*": "vision_embed.patch.*",
        **_layers("vision_model.encoder.layers", "vision", _HUGGING_FACE_LAYER),
        "vision_model.post_layernorm.*": "vision_norm.*",
        **_bert("text_encoder", "text"),
        **_DECODER,
        **_PAIR_HEADS,
    },
    drop=(*_REPEATED, "logit_scale"),  # an unused one of transformers' own
)


def _albef(name: str, bert: str) -> Format:
    return Format(
        name=name,
        marks=("visual_encoder.cls_token", f"{bert}.embeddings.token_type_embeddings.weight"),
        names={
            **_VIT,
            **_bert(bert, "text"),
            **_word_head("text_encoder.cls", "lm_head"),
            **_DECODER,
            **_PAIR_HEADS,
        },
        drop=(*_REPEATED, *_MOMENTUM),
    )


ALBEF_PRETRAINING = _albef("official ALBEF with its masked-language wrapper", "text_encoder.bert")
ALBEF_FINETUNING = _albef("official ALBEF", "text_encoder")
BEIT3_OFFICIAL = Format(
    name="official BEiT-3",
    marks=("beit3.vision_embed.cls_token", "beit3.encoder.layer_norm.A.weight"),
    names={
        "beit3.vision_embed.cls_token": "vision_embed.class_token[0,0]",
        "beit3.vision_embed.proj.*": "vision_embed.patch.*",
        "beit3.text_embed.weight": "text_embed.token.weight",
        # Positions are counted from 2 there: nothing reads the first rows.
        "beit3.encoder.embed_positions.A.weight": "vision_embed.position[2:]",
        "beit3.encoder.embed_positions.B.weight": "text_embed.position[2:]",
        **_layers("beit3.encoder.layers", "encoder", _MULTIWAY_LAYER),
        "beit3.encoder.layer_norm.A.*": "encoder_norm.vision.*",
        "beit3.encoder.layer_norm.B.*": "encoder_norm.text.*",
        "vision_head.weight": "vision_proj.weight",
        "language_head.weight": "text_proj.weight",
        "logit_scale": "logit_scale",
    },
    # Heads of pre-training and of other tasks.
    drop=("beit3.vision_embed.mask_token", "mlm_head.*", "mim_head.*", "pooler.*", "fc_norm.*", "head.*"),
)


# What a missing decoder starts from.


def _blip_decoder(own: State, state: State) -> dict[str, str]:
    """What a tied decoder shares with the text tower, where the file holds it under the tower's names only."""
    tied = re.compile(r"decoder(_embed|\.layers\.\d+\.(cross|norm_cross|fc1|fc2|norm2))\..+")
    if "decoder_head.bias" not in state or any(tied.fullmatch(name) for name in state):
        return {}
    twins = {name: name.replace("decoder", "text", 1) for name in own if tied.fullmatch(name)}
    return {ours: theirs for ours, theirs in twins.items() if theirs in state}


def _albef_decoder(own: State, state: State) -> dict[str, str]:
    """The fusion layers, words and word head, which a decoder that the file lacks starts from in the authors' VQA.

    The decoder reads text states, not image states: where their widths differ, its keys and values are left out.
    """
    if any(name.startswith("decoder") for name in state):
        return {}
    first = layer_count(own, "text") - layer_count(own, "decoder")
    sources = {}
    for name in own:
        layer = re.fullmatch(r"decoder\.layers\.(\d+)\.(.+)", name)
        if layer is not None:
            sources[name] = f"text.layers.{first + int(layer[1])}.{layer[2]}"
        elif name.startswith("decoder_embed."):
            sources[name] = name.replace("decoder", "text", 1)
        elif name.startswith("decoder_head."):
            sources[name] = name.replace("decoder_head", "lm_head", 1)
    pairs = ((ours, theirs) for ours, theirs in sources.items() if theirs in state)
    return {ours: theirs for ours, theirs in pairs if state[theirs].shape == own[ours].shape}


# Families.


def _towers(vision: tuple[int, int, int], text: tuple[int, int, int]) -> dict[str, int]:
    """Sizes of two towers, each as (width, layers, heads)."""
    return {
        **dict(zip(("vision_width", "vision_layers", "vision_heads"), vision, strict=True)),
        **dict(zip(("text_width", "text_layers", "text_heads"), text, strict=True)),
    }


def _clip(
    patch: int, image: int, vision: tuple[int, int, int], text: tuple[int, int, int], joint: int
) -> dict[str, int]:
    return {
        "image_size": image,
        "patch_size": patch,
        **_towers(vision, text),
        "context_length": 77,
        "vocabulary": 49408,
        "embed_dim": joint,
    }


def _fused(vision: tuple[int, int, int], vocabulary: int, **more: int) -> dict[str, int]:
    """Sizes of a ViT beside BERT-base, as (width, layers, heads)."""
    return {
        "patch_size": 16,
        **_towers(vision, (768, 12, 12)),
        "context_length": 512,
        "vocabulary": vocabulary,
        "embed_dim": 256,
        **more,
    }


def _beit3(width: int, layers: int, heads: int) -> dict[str, int]:
    shape = {"width": width, "layers": layers, "heads": heads}
    return {"patch_size": 16, **shape, "context_length": 1022, "vocabulary": 64010}


_TOWER_HEADS = {"vision": "vision_heads", "text": "text_heads"}
_WORD_PARTS = ("decoder_embed.*", "decoder.*", "decoder_head.*", "lm_head.*")
_PAIR_PARTS = ("vision_proj.*", "text_proj.*", "itm_head.*", "temp")

FAMILIES: dict[str, Family] = {  # by the backbone's class name
    "CLIP": Family(
        name="CLIP",
        formats=(
            CLIP_OPENAI,
            CLIP_HUGGING_FACE,
            _own("vision_embed.norm.weight", "text_embed.token.weight", "logit_scale"),
        ),
        positions={"vision_embed.position": 1},
        measure=_clip_sizes,
        heads=_TOWER_HEADS,
        # Radford et al. 2021, table 20.
        releases={
            "ViT-B/32": Release("clip_vit_b32", _clip(32, 224, (768, 12, 12), (512, 12, 8), 512)),
            "ViT-B/16": Release("clip_vit_b16", _clip(16, 224, (768, 12, 12), (512, 12, 8), 512)),
            "ViT-L/14": Release("clip_vit_l14", _clip(14, 224, (1024, 24, 16), (768, 12, 12), 768)),
            "ViT-L/14@336px": Release("clip_vit_l14_336", _clip(14, 336, (1024, 24, 16), (768, 12, 12), 768)),
        },
    ),
    "BLIP": Family(
        name="BLIP",
        formats=(BLIP_OFFICIAL, BLIP_HUGGING_FACE, _own("vision_embed.position", "text.layers.0.cross.q.weight")),
        positions={"vision_embed.position": 1},
        measure=_blip_sizes,
        heads=_TOWER_HEADS,
        # Li et al. 2022, section 4.1; the text tower is BERT-base beside either ViT.
        releases={
            "base": Release("blip_base", _fused((768, 12, 12), 30524)),
            "large": Release("blip_large", _fused((1024, 24, 16), 30524)),
        },
        parts=(*_PAIR_PARTS, *_WORD_PARTS),
        spare=_WORD_PARTS,
        seeds=_blip_decoder,
    ),
    "ALBEF": Family(
        name="ALBEF",
        formats=(ALBEF_PRETRAINING, ALBEF_FINETUNING, _own("vision_embed.position", "text_embed.segment")),
        positions={"vision_embed.position": 1},
        measure=_albef_sizes,
        heads=_TOWER_HEADS,
        # Li et al. 2021, section 3.1.
        releases={"base": Release("albef_base", _fused((768, 12, 12), 30522, fusion_layer=6))},
        parts=(*_PAIR_PARTS, *_WORD_PARTS),
        spare=_WORD_PARTS,
        seeds=_albef_decoder,
    ),
    "BEiT3": Family(
        name="BEiT-3",
        formats=(BEIT3_OFFICIAL, _own("vision_embed.position", "encoder_norm.vision.weight")),
        positions={"vision_embed.position": 1},
        measure=_beit3_sizes,
        heads={"encoder": "heads"},
        # As in the authors' release; the paper's own model is larger.
        releases={
            "base": Release("beit3_base", _beit3(768, 12, 12)),
            "large": Release("beit3_large", _beit3(1024, 24, 16)),
        },
        parts=("vision_proj.*", "text_proj.*", "logit_scale"),
    ),
}

# What else people point a checkpoint key at, by the names in the file; the first that fits counts.
_OTHERS = {
    r"tuner\..*": "a tuner's checkpoint of this project, which holds no backbone (it is for tools/test.py)",
    r"visual\.layer1\.0\.conv1\.weight": "a CLIP with a ResNet (only the vision transformers are supported)",
    r"beit3\..*": "a BEiT-3 checkpoint",
    r"text_encoder\..*": "a BLIP or ALBEF checkpoint",
    r"text_decoder\..*": "a BLIP or ALBEF checkpoint without its text encoder, such as a captioner's",
    r"visual_encoder\..*": "the vision tower alone of a BLIP or ALBEF",
    r"text_model\.embeddings\.word_embeddings\..*": "a BLIP or ALBEF checkpoint",
    r"(vision|text)_model\.head\..*": "a SigLIP checkpoint",
    r"vision_model\..*|visual\..*": "a vision tower alone, or another vision-language model",
    r"text_model\..*|transformer\.resblocks\..*": "a text tower alone, or another vision-language model",
    r"(bert\.)?(embeddings\.word_embeddings|encoder\.layer\.\d+\.attention)\..*": "a BERT checkpoint",
    r"((vit|model)\.)?(blocks\.\d+\..*|cls_token|embeddings\.cls_token)": "a ViT without a text tower",
}


def recognise(state: State) -> str:
    """Say in words what a state dict of no allowed format looks like."""
    for family in FAMILIES.values():
        fmt = family.detect(state)
        if fmt is not None:
            article = "an" if family.name[0] in "AEIO" else "a"
            return f"{article} {family.name} checkpoint (names: {fmt.name})"
    for pattern, label in _OTHERS.items():
        if any(re.fullmatch(pattern, name) for name in state):
            return label
    return "of no family known here"
