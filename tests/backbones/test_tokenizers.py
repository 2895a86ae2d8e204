"""Tokenizers: byte pairs, WordPiece and SentencePiece, where one is looked for, pooling that no pad id can change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from transformers import AutoTokenizer

from petl_zoo.backbones import CLIP, tokenize, tokenizers
from petl_zoo.backbones.sources import WEIGHTS
from petl_zoo.backbones.tokenizers import BEiT3Tokenizer, BERTTokenizer, BLIPTokenizer, TokenizerError, load_tokenizer

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


@pytest.mark.parametrize(("weights", "kind"), [("clip", "clip"), ("blip", "blip"), ("beit3", "beit3")])
def test_texts_together_are_the_texts_alone(weights: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["a red cat.", "two dogs", "a red cat.", "", "a cat left of a moon"]
    alone = [load_tokenizer(None, f"zoo:{weights}_tiny", 32, kind=kind).encode(text) for text in texts]
    tokenizer = load_tokenizer(None, f"zoo:{weights}_tiny", 32, kind=kind)
    assert tokenizer.encode_all(texts[:2]) == alone[:2]
    assert tokenizer.encode_all(texts) == alone
    monkeypatch.setattr(tokenizers, "REMEMBERED", 3)  # More than the cache holds.
    assert tokenizer.encode_all([*texts, "moon"])[:-1] == alone
    assert tokenizer.encode_all(texts) == alone


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
    with pytest.raises(TokenizerError, match=r"neither a tokenizer nor a checkpoint.*set backbone\.tokenizer"):
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
    with pytest.raises(TokenizerError, match=r"some/model: no tokenizer could be loaded.*set backbone\.tokenizer"):
        load_tokenizer(source, checkpoint, 77)


def test_missing_folder() -> None:
    with pytest.raises(TokenizerError, match=r"\./missing: no folder of a tokenizer"):
        load_tokenizer("./missing", None, 77)


PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "dog", "##s", "play", "##ing", ",", "e"]


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A lone vocabulary, as bert-base-uncased's is published; as long as that one's."""
    words = [*PIECES, *(f"[unused{i}]" for i in range(30522 - len(PIECES)))]
    (tmp_path / "vocab.txt").write_text("".join(f"{word}\n" for word in words))
    return tmp_path


class TestWordPiece:
    @pytest.mark.parametrize("kind", ["blip", "albef"])
    def test_words_are_lower_cased_and_cut_at_the_longest_piece(self, bert: Path, kind: str) -> None:
        tokenizer = load_tokenizer(str(bert), None, 35, kind=kind)
        expected = [PIECES.index(piece) for piece in ("a", "photo", "of", "play", "##ing", "dog", "##s", ",", "e")]
        assert tokenizer.encode("A photo of PLAYING dogs, \u00e9") == expected
        assert tokenizer.encode("cats") == [PIECES.index("[UNK]")]

    def test_blips_tokens_come_behind_the_vocabulary(self, bert: Path) -> None:
        tokenizer = load_tokenizer(None, str(bert), 35, kind="blip")
        assert isinstance(tokenizer, BLIPTokenizer)
        assert (tokenizer.dec, tokenizer.enc, len(tokenizer)) == (30522, 30523, 30524)
        assert (tokenizer.start, tokenizer.end, tokenizer.pad, tokenizer.mask) == (2, 3, 0, 4)

    def test_albefs_texts_stay_open_and_its_answers_can_be_closed(self, bert: Path) -> None:
        tokenizer = load_tokenizer(str(bert), None, 30, kind="albef")
        assert isinstance(tokenizer, BERTTokenizer)
        assert not isinstance(tokenizer, BLIPTokenizer)
        assert (tokenizer.start, tokenizer.end, tokenizer.separator) == (2, None, 3)
        assert len(tokenizer) == 30522

    def test_a_folder_that_has_blips_tokens_keeps_them(self, bert: Path) -> None:
        """As BLIP's code leaves it: ``[DEC]`` is the beginning of a text then, which ``[CLS]`` must stay here."""
        official = AutoTokenizer.from_pretrained(bert, tokenizer_type="bert")
        official.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
        official.add_special_tokens({"bos_token": "[DEC]"})
        official.save_pretrained(bert / "saved")
        tokenizer = load_tokenizer(str(bert / "saved"), None, 35, kind="blip")
        assert isinstance(tokenizer, BLIPTokenizer)
        assert (tokenizer.start, tokenizer.enc, tokenizer.dec, len(tokenizer)) == (2, 30522, 30523, 30524)

    def test_a_tokenizer_of_another_kind_is_refused(self, folder: Path) -> None:
        with pytest.raises(TokenizerError, match=r"not BERT's vocabulary, it has no \[PAD\].*'bert-base-uncased'"):
            load_tokenizer(str(folder), None, 35, kind="blip")

    @pytest.mark.usefixtures("offline")
    @pytest.mark.parametrize("checkpoint", [None, "model_base.pth"])
    def test_without_a_tokenizer_the_authors_is_taken_from_the_cache(
        self, bert: Path, tmp_path: Path, checkpoint: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if checkpoint is not None:
            (tmp_path / "official").mkdir()
            (tmp_path / "official" / checkpoint).write_bytes(b"any")
            checkpoint = str(tmp_path / "official" / checkpoint)
        with pytest.raises(TokenizerError, match=r"bert-base-uncased: no tokenizer could be loaded \(a hub id"):
            load_tokenizer(None, checkpoint, 35, kind="albef")
        cached = tmp_path / "cache" / "models--bert-base-uncased"
        (cached / "snapshots" / "0").mkdir(parents=True)
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text("0")
        for name, text in (("vocab.txt", (bert / "vocab.txt").read_text()), ("config.json", '{"model_type": "bert"}')):
            (cached / "snapshots" / "0" / name).write_text(text)
        (cached / "snapshots" / "0" / "tokenizer_config.json").write_text('{"do_lower_case": true}')
        for source in (None, "bert-base-uncased"):
            assert load_tokenizer(source, checkpoint, 35, kind="albef").encode("Dogs") == [8, 9]


class TestSentencePiece:
    FILE = WEIGHTS / "beit3_tiny" / "beit3.spm"
    TEXTS = ("A photo of three dogs.", "  two  red\tboats", "jack-o-lantern", "\u2603 4 cats", "")

    @pytest.fixture
    def oracle(self, tmp_path: Path) -> Path:
        """The same pieces as a folder of transformers."""
        shutil.copy(self.FILE, tmp_path / "sentencepiece.bpe.model")
        (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "XLMRobertaTokenizer"}')
        return tmp_path

    def test_ids_are_those_of_xlm_roberta(self, oracle: Path) -> None:
        official = AutoTokenizer.from_pretrained(oracle)
        tokenizer = load_tokenizer(None, "zoo:beit3_tiny", 64, kind="beit3")
        for text in self.TEXTS:
            assert [tokenizer.start, *tokenizer.encode(text), tokenizer.end] == official(text)["input_ids"]
        assert (tokenizer.start, tokenizer.pad, tokenizer.end) == (0, 1, 2)
        assert tokenizer.mask == official.mask_token_id == len(tokenizer) - 1 == len(official) - 1
        assert official.unk_token_id in tokenizer.encode("\u2603")

    def test_it_is_found_under_each_of_its_names(self, oracle: Path) -> None:
        (oracle / "beit3_base_patch16_384_coco_retrieval.pth").write_bytes(b"any")
        expected = load_tokenizer("zoo:beit3_tiny", None, 64, kind="beit3").encode("three dogs")
        for source, checkpoint in (
            (str(self.FILE), None),
            (str(oracle), None),
            (None, str(oracle / "beit3_base_patch16_384_coco_retrieval.pth")),
        ):
            tokenizer = load_tokenizer(source, checkpoint, 64, kind="beit3")
            assert isinstance(tokenizer, BEiT3Tokenizer)
            assert tokenizer.encode("three dogs") == expected

    def test_a_folder_that_transformers_saved(self, oracle: Path) -> None:
        AutoTokenizer.from_pretrained(oracle).save_pretrained(oracle / "saved")
        tokenizer = load_tokenizer(str(oracle / "saved"), None, 64, kind="beit3")
        official = load_tokenizer("zoo:beit3_tiny", None, 64, kind="beit3")
        for name in ("start", "pad", "end", "mask"):
            assert getattr(tokenizer, name) == getattr(official, name)
        assert [tokenizer.encode(text) for text in self.TEXTS] == [official.encode(text) for text in self.TEXTS]

    def test_a_damaged_file(self, tmp_path: Path) -> None:
        (tmp_path / "beit3.spm").write_bytes(self.FILE.read_bytes()[:1000])
        with pytest.raises(TokenizerError, match=r"beit3\.spm: no SentencePiece model .*get the file again"):
            load_tokenizer(str(tmp_path), None, 64, kind="beit3")

    def test_without_a_file_it_says_what_to_set(self, tmp_path: Path) -> None:
        (tmp_path / "beit3_base_patch16_224.pth").write_bytes(b"any")
        with pytest.raises(TokenizerError, match=r"no tokenizer beside the checkpoint; .* the file beit3\.spm"):
            load_tokenizer(None, str(tmp_path / "beit3_base_patch16_224.pth"), 64, kind="beit3")
