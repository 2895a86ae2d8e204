"""Checkpoint formats as tables: which names a file holds, and which of our names each becomes.

A table maps a name in the file to ours. ``#`` stands for a layer's number and ``*`` for the rest of the name,
on both sides; ``{q,k,v}`` cuts a packed projection into equal parts along its first axis, and a final ``.T``
transposes a matrix.
A new backbone adds a ``Family``: tables and a function that reads sizes from shapes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import Tensor

__all__ = ["FAMILIES", "OWN", "Family", "Format", "Release", "clip_sizes", "recognise"]

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Format:
    """One way in which files name a model's tensors.

    Attributes:
        name: what messages call it.
        marks: names that every file of this format holds.
        names: a name in the file -> ours, in the notation of this module; the first line that fits counts.
        drop: names that hold no weights, as shell patterns.
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
            if any(fnmatchcase(name, pattern) for pattern in self.drop):
                continue
            for regex, target in lines:
                match = regex.fullmatch(name)
                if match is not None:
                    converted.update(_assign(target, match.groupdict(), tensor))
                    break
            else:
                unknown.append(name)
        return converted, unknown


def _regex(source: str) -> re.Pattern[str]:
    return re.compile(re.escape(source).replace(r"\#", r"(?P<layer>\d+)").replace(r"\*", r"(?P<rest>.+)"))


def _assign(target: str, found: Mapping[str, str], tensor: Tensor) -> dict[str, Tensor]:
    if target.endswith(".T"):
        target, tensor = target.removesuffix(".T"), tensor.T
    name = target.replace("#", found.get("layer", "")).replace("*", found.get("rest", ""))
    packed = re.search(r"\{(.+?)\}", name)
    if packed is None:
        return {name: tensor}
    parts = packed[1].split(",")
    return {
        name.replace(packed[0], part): t for part, t in zip(parts, tensor.chunk(len(parts)), strict=False)
    }


@dataclass(frozen=True)
class Release:
    """The sizes of published weights, by the constructor's keywords, and the base config that has them."""

    config: str
    sizes: Mapping[str, int]


@dataclass(frozen=True)
class Family:
    """What is known about the files of one backbone class.

    Attributes:
        name: what messages call the family.
        formats: the formats its files come in.
        positions: our names of position tables over an image grid -> rows in front of the grid.
        sizes: reads the constructor's keywords from the shapes of tensors under our names.
        releases: published weights by name.
    """

    name: str
    formats: tuple[Format, ...]
    positions: Mapping[str, int]
    sizes: Callable[[State], dict[str, int]]
    releases: Mapping[str, Release] = field(default_factory=dict)

    def detect(self, state: State) -> Format | None:
        """The format of a state dict, by the names in it."""
        return next((f for f in self.formats if all(mark in state for mark in f.marks)), None)

    def release(self, sizes: Mapping[str, int]) -> str | None:
        """The name of the published weights that have these sizes (head counts do not show in shapes)."""
        for name, release in self.releases.items():
            if all(sizes.get(key, size) == size for key, size in release.sizes.items()):
                return name
        return None


def clip_sizes(state: State) -> dict[str, int]:
    """Read the sizes of a CLIP, by the keywords of its constructor, from tensors under our names.

    Head counts do not show in shapes; they are given where the sizes are those of published weights.

    Raises:
        KeyError: a tensor that tells a size is missing.
    """
    width, _, patch, _ = state["vision_embed.patch.weight"].shape
    grid = round((state["vision_embed.position"].shape[-2] - 1) ** 0.5)
    vocabulary, text_width = state["text_embed.token.weight"].shape
    sizes = {
        "image_size": grid * patch,
        "patch_size": patch,
        "vision_width": width,
        "vision_layers": _depth(state, "vision"),
        "text_width": text_width,
        "text_layers": _depth(state, "text"),
        "context_length": state["text_embed.position"].shape[-2],
        "vocabulary": vocabulary,
        "embed_dim": state["text_proj.weight"].shape[0],
    }
    known = FAMILIES["CLIP"].release(sizes)
    return sizes if known is None else {**sizes, **FAMILIES["CLIP"].releases[known].sizes}


def _depth(state: State, tower: str) -> int:
    found = (re.match(rf"{tower}\.layers\.(\d+)\.", name) for name in state)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def _layers(source: str, target: str, names: Mapping[str, str]) -> dict[str, str]:
    return {f"{source}.#.{theirs}": f"{target}.layers.#.{ours}" for theirs, ours in names.items()}


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
    "layer_norm1.*": "norm1.*",
    "layer_norm2.*": "norm2.*",
    "mlp.fc1.*": "fc1.*",
    "mlp.fc2.*": "fc2.*",
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
OWN = Format(
    name="PETL Zoo",
    marks=("vision_embed.patch.weight", "text_embed.token.weight", "logit_scale"),
    names={"*": "*"},
)


def _clip(
    patch: int, image: int, vision: tuple[int, int, int], text: tuple[int, int, int], joint: int
) -> dict[str, int]:
    """Sizes of a CLIP; each tower as (width, layers, heads)."""
    return {
        "image_size": image,
        "patch_size": patch,
        **dict(zip(("vision_width", "vision_layers", "vision_heads"), vision, strict=True)),
        **dict(zip(("text_width", "text_layers", "text_heads"), text, strict=True)),
        "context_length": 77,
        "vocabulary": 49408,
        "embed_dim": joint,
    }


FAMILIES: dict[str, Family] = {  # by the backbone's class name
    "CLIP": Family(
        name="CLIP",
        formats=(CLIP_OPENAI, CLIP_HUGGING_FACE, OWN),
        positions={"vision_embed.position": 1},
        sizes=clip_sizes,
        # Radford et al. 2021, table 20.
        releases={
            "ViT-B/32": Release("clip_vit_b32", _clip(32, 224, (768, 12, 12), (512, 12, 8), 512)),
            "ViT-B/16": Release("clip_vit_b16", _clip(16, 224, (768, 12, 12), (512, 12, 8), 512)),
            "ViT-L/14": Release("clip_vit_l14", _clip(14, 224, (1024, 24, 16), (768, 12, 12), 768)),
            "ViT-L/14@336px": Release("clip_vit_l14_336", _clip(14, 336, (1024, 24, 16), (768, 12, 12), 768)),
        },
    ),
}

# What else people point a checkpoint key at, by the names in the file; the first that fits counts.
_OTHERS = {
    r"tuner\..*": "a tuner's checkpoint of this project, which holds no backbone (it is for tools/test.py)",
    r"visual\.layer1\.0\.conv1\.weight": "a CLIP with a ResNet (only the vision transformers are supported)",
    r"beit3\..*": "a BEiT-3 checkpoint",
    r"(visual_encoder|text_encoder|text_decoder)\..*": "a BLIP or ALBEF checkpoint",
    r"text_model\.embeddings\.word_embeddings\..*": "a BLIP or ALBEF checkpoint",
    r"(vision|text)_model\.head\..*": "a SigLIP checkpoint",
    r"vision_model\..*|visual\..*": "a vision tower alone, or another vision-language model",
    r"text_model\..*|transformer\.resblocks\..*": "a text tower alone, or another vision-language model",
    r"(bert\.)?(embeddings\.word_embeddings|encoder\.layer\.\d+\.attention)\..*": "a BERT checkpoint",
    r"((vit|model)\.)?(blocks\.\d+\..*|cls_token|embeddings\.cls_token)": "a ViT without a text tower",
}


def recognise(state: State) -> str:
    """Say in words what a state dict of no allowed format looks like."""
    for pattern, label in _OTHERS.items():
        if any(re.fullmatch(pattern, name) for name in state):
            return label
    return "of no family known here"
