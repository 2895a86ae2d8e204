"""Tokenizers: CLIP's byte pairs, where a tokenizer is looked for, and pooling that no pad id can change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch

from petl_zoo.backbones import CLIP, tokenize
from petl_zoo.backbones.sources import WEIGHTS
from petl_zoo.backbones.tokenizers import TokenizerError, load_tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz."
MERGES = ["p o", "po l", "pol a", "pola r</w>", "b e", "be a", "bea r</w>"]
VOCABULARY = [
    *LETTERS,
    *(letter + "</w>" for letter in LETTERS),
    *(merge.replace(" ", "") for merge in MERGES),
    "<|startoftext|>",
    "<|endoftext|>",
]
IDS = {token: i for i, token in enumerate(VOCABULARY)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "clip"
    path.mkdir()
    (path / "vocab.json").write_text(json.dumps(IDS))
    (path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    return path


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


def test_clip_byte_pairs_are_lower_cased_merged_and_end_words(folder: Path) -> None:
    tokenizer = load_tokenizer(str(folder), None, 16)
    assert tokenizer.encode("A Polar  bear.") == [
        IDS["a</w>"],
        IDS["polar</w>"],
        IDS["bear</w>"],
        IDS[".</w>"],
    ]
    assert tokenizer.encode("bears") == [IDS["bea"], IDS["r"], IDS["s</w>"]]
    assert (tokenizer.start, tokenizer.end) == (IDS["<|startoftext|>"], IDS["<|endoftext|>"])
    assert tokenizer.context_length == 16
    assert len(tokenizer) == len(VOCABULARY)


def test_a_text_seen_before_is_not_tokenised_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = load_tokenizer(str(folder), None, 16)
    first = tokenizer.encode("a bear.")
    first_copy = list(first)
    first.append(-1)  # A caller may do with its list what it likes.
    monkeypatch.setattr(tokenizer, "_tokenizer", None)
    assert tokenizer.encode("a bear.") == first_copy


@pytest.mark.parametrize("source", ["folder", "file"])
def test_tokenizer_is_found_beside_the_checkpoint(folder: Path, source: str) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(b"any")
    tokenizer = load_tokenizer(None, str(folder if source == "folder" else weights), 16)
    assert tokenizer.encode("polar") == [IDS["polar</w>"]]


def test_tokenizer_that_ships_is_found_by_its_zoo_name() -> None:
    by_source = load_tokenizer("zoo:clip_tiny", None, 32)
    by_checkpoint = load_tokenizer(None, "zoo:clip_tiny", 32)
    ids = by_source.encode("A photo of a polar bear.")
    assert ids == by_checkpoint.encode("a photo of a polar bear.")
    assert len(ids) >= 6
    assert not {by_source.start, by_source.end} & set(ids)
    assert len(by_source) > max(*ids, by_source.start, by_source.end, by_source.pad)


def test_pad_id_changes_no_text_feature(folder: Path) -> None:
    tokenizer = load_tokenizer(str(folder), None, 16)
    torch.manual_seed(0)
    backbone = CLIP(
        image_size=8, patch_size=8, vision_width=16, vision_layers=1, vision_heads=2, text_width=16,
        text_layers=2, text_heads=2, context_length=16, vocabulary=len(tokenizer), embed_dim=8,
    ).eval()  # fmt: skip
    names = ["bear", "polar bear", "b"]
    features = []
    for pad in (tokenizer.end, 0, 7):
        tokenizer.pad = pad
        batch = tokenize(tokenizer, "a {}.", names)
        assert batch.ids.gather(1, batch.end[:, None]).eq(tokenizer.end).all()
        assert torch.equal(batch.ids[:, 0], torch.full((3,), tokenizer.start))
        with torch.no_grad():
            features.append(backbone.encode_text(batch))
    alone = torch.cat([backbone.encode_text(tokenize(tokenizer, "a {}.", [name])) for name in names])
    torch.testing.assert_close(features[0], alone, rtol=0, atol=1e-6)
    torch.testing.assert_close(features[1], features[0], rtol=0, atol=0)
    torch.testing.assert_close(features[2], features[0], rtol=0, atol=0)


def test_text_longer_than_the_context_is_named(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"'bear bear bear' has 5 tokens.*at most 4"):
        tokenize(load_tokenizer(str(folder), None, 4), "{}", ["bear", "bear bear bear"])


def test_openai_file_without_a_tokenizer_says_what_to_set(tmp_path: Path) -> None:
    weights = tmp_path / "ViT-B-16.pt"
    weights.write_bytes(b"any")
    with pytest.raises(TokenizerError, match="no tokenizer beside the checkpoint") as caught:
        load_tokenizer(None, str(weights), 77)
    assert str(weights) in str(caught.value)
    assert "set backbone.tokenizer to a folder" in str(caught.value)
    assert "'openai/clip-vit-base-patch16'" in str(caught.value)


def test_neither_tokenizer_nor_checkpoint() -> None:
    with pytest.raises(
        TokenizerError, match=r"neither a tokenizer nor a checkpoint.*set backbone\.tokenizer"
    ):
        load_tokenizer(None, None, 77)


def test_folder_without_a_tokenizer_lists_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(TokenizerError, match=r"holds no tokenizer \(files: notes\.txt\)"):
        load_tokenizer(str(tmp_path), None, 77)


@pytest.mark.parametrize("content", ["{", '{"model": 3}'])
def test_damaged_tokenizer_is_a_clear_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(TokenizerError, match=r"no tokenizer could be loaded \(files: tokenizer\.json"):
        load_tokenizer(str(tmp_path), None, 77)


def test_tokenizer_without_special_tokens_is_refused(tmp_path: Path) -> None:
    shutil.copy(WEIGHTS / "clip_tiny" / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(TokenizerError, match=r"no token that opens or closes a text.*tokenizer_config\.json"):
        load_tokenizer(str(tmp_path), None, 77)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(("source", "checkpoint"), [("some/model", None), (None, "some/model")])
def test_hub_id_without_a_network_says_how_to_go_on(source: str | None, checkpoint: str | None) -> None:
    with pytest.raises(
        TokenizerError, match=r"some/model: no tokenizer could be loaded.*set backbone\.tokenizer"
    ):
        load_tokenizer(source, checkpoint, 77)


def test_missing_folder() -> None:
    with pytest.raises(TokenizerError, match=r"\./missing: no folder of a tokenizer"):
        load_tokenizer("./missing", None, 77)
