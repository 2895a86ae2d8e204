"""The tokenizers that ship: trained reproducibly, and short enough for every name and scene."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from petl_zoo.backbones.tokenizers import HuggingFaceTokenizer, PretrainedTokenizer, load_tokenizer
from petl_zoo.data import Glyphs, GlyphScenes
from petl_zoo.data.glyphs import concepts
from petl_zoo.data.glyphs.grammar import PHRASES
from petl_zoo.data.glyphs.pairs import TEMPLATES
from petl_zoo.data.glyphs.render import COLOURS
from tools.train_tokenizer import LAYOUT_WORDS, OUT, PLURALS, SCENE_WORDS, WEIGHTS, WORD, corpus, train

# The weights that ship know ids only by their place: another file under the same name would make nonsense of them.
PINNED = {
    "clip_tiny/tokenizer.json": "d2b9ef116938fe2b82555f9833d8add5c5b998b5fd2ee046f8bf842e5003eb5c",
    "blip_tiny/vocab.txt": "ca413ad16356b8cebc5c702ac08cff1a102dcfcd5a4ffe745913942723103274",
    "albef_tiny/vocab.txt": "f1bd215c03d3c63584c72bce2bf8577eaa9181509bbed3651288bc53130eb927",
    "beit3_tiny/beit3.spm": "5447250c23421f26f0326a5874cb736ffeaad41d697a87c2e8f01a57cf092d73",
}


@pytest.fixture(scope="module")
def shipped() -> HuggingFaceTokenizer:
    return load_tokenizer("zoo:clip_tiny", None, 32)


@pytest.fixture(scope="module")
def model() -> Tokenizer:
    return Tokenizer.from_file(str(OUT / "tokenizer.json"))


def test_training_twice_gives_the_same() -> None:
    assert train(300).to_str() == train(300).to_str()


def test_the_tool_makes_what_ships() -> None:
    assert json.loads(train(2000).to_str())["model"] == json.loads((OUT / "tokenizer.json").read_text())["model"]


def test_the_prompts_first_words_are_a_token_each(shipped: HuggingFaceTokenizer) -> None:
    """Prompt learners put their context vectors in the place of exactly four tokens."""
    assert len(shipped.encode("a photo of a")) == 4


def test_start_end_and_size(shipped: HuggingFaceTokenizer, model: Tokenizer) -> None:
    assert len(shipped) == 2000
    assert model.encode("a cat").ids == [shipped.start, *shipped.encode("a cat"), shipped.end]
    assert shipped.start != shipped.end


def test_words_digits_and_signs_survive_the_round_trip(model: Tokenizer) -> None:
    for text in (*(concept.noun for concept in concepts()), "what colour is the cat", "two small red boats"):
        ids = model.encode(text, add_special_tokens=False).ids
        assert model.decode(ids).split() == re.findall(WORD, text)


def test_case_and_accents_do_not_matter(shipped: HuggingFaceTokenizer) -> None:
    assert shipped.encode("A Piñata.") == shipped.encode("a pinata.")


def test_nothing_of_the_corpus_is_unknown(model: Tokenizer) -> None:
    unknown = model.token_to_id("<|unknown|>")
    assert not [text for text in set(corpus()) if unknown in model.encode(text).ids]
    assert unknown in model.encode("☃").ids


def test_every_name_fits_the_context(shipped: HuggingFaceTokenizer) -> None:
    names = {concept.name for concept in concepts()} | {concept.kind for concept in concepts()}
    assert len(names) >= 731
    for template in (*TEMPLATES, Glyphs().templates[0]):
        assert max(len(shipped.encode(template.format(name))) + 2 for name in names) <= shipped.context_length


@pytest.mark.parametrize("name", PINNED)
def test_what_ships_is_what_the_weights_were_trained_with(name: str) -> None:
    assert hashlib.sha256((WEIGHTS / name).read_bytes()).hexdigest() == PINNED[name]


def test_the_tool_writes_what_ships(tmp_path: Path) -> None:
    """In another process, where hashes order things differently."""
    kinds = ("blip", "albef", "beit3")
    calls = "; ".join(f"main(['--kind', {kind!r}, '--out', {str(tmp_path / kind)!r}])" for kind in kinds)
    subprocess.run(
        [sys.executable, "-c", f"from tools.train_tokenizer import main; {calls}"],
        env=os.environ | {"PYTHONHASHSEED": "7"},
        cwd=Path(__file__).parents[2],
        check=True,
    )
    for kind in kinds:
        assert list((tmp_path / kind).iterdir())
        for path in (tmp_path / kind).iterdir():
            assert path.read_bytes() == (WEIGHTS / f"{kind}_tiny" / path.name).read_bytes()


@pytest.fixture(scope="module", params=["blip", "albef", "beit3"])
def scenic(request: pytest.FixtureRequest) -> PretrainedTokenizer:
    return load_tokenizer(None, f"zoo:{request.param}_tiny", 32, kind=request.param)


class TestScenes:
    def test_words_of_scenes_are_a_token_each(self, scenic: PretrainedTokenizer) -> None:
        phrases = " ".join(phrase for kind in PHRASES.values() for phrase in kind) + " ".join(TEMPLATES)
        told = re.findall("[a-z]+", re.sub(r"\{\w?\}", " ", phrases))
        words = {*told, *COLOURS, *SCENE_WORDS.split(), *LAYOUT_WORDS.split(), *PLURALS.split(), "background"}
        assert not [word for word in words if len(scenic.encode(word)) != 1]
        assert len({scenic.encode(word)[0] for word in words}) == len(words)

    def test_a_plural_is_its_singular_and_an_ending(self, scenic: PretrainedTokenizer) -> None:
        ending = scenic.encode("boats")[-1]
        for word in ("carrot", "penguin", "violin"):
            assert len(scenic.encode(word)) == 1
            assert scenic.encode(f"{word}s") == [*scenic.encode(word), ending]
        assert [len(scenic.encode(word)) for word in ("strawberries", "knives")] == [1, 1]

    def test_no_caption_is_long_or_has_an_unknown_word(self, scenic: PretrainedTokenizer) -> None:
        unknown = scenic.encode("\u2603")[-1]
        texts = [text for part in ("val", "test") for item in GlyphScenes().items[part] for text in item.captions]
        texts += [concept.name for concept in concepts()]
        ids = [scenic.encode(text) for text in texts]
        assert scenic.encode("\u2605")[-1] == unknown
        assert not [text for text, row in zip(texts, ids, strict=True) if unknown in row]
        assert max(map(len, ids)) <= 22

    def test_special_tokens_are_no_words(self, scenic: PretrainedTokenizer) -> None:
        names = ("start", "end", "pad", "mask", "separator", "enc", "dec")
        special = {getattr(scenic, name, None) for name in names} - {None}
        ids = {i for concept in concepts() for i in scenic.encode(concept.noun)}
        assert not special & ids
        assert max(special | ids) < len(scenic)


def test_blips_and_albefs_words_have_the_same_ids() -> None:
    """So that the tiny ALBEF can begin with the tiny BLIP's towers."""
    blip, albef = (WEIGHTS / f"{name}_tiny" / "vocab.txt" for name in ("blip", "albef"))
    assert blip.read_text().split("\n") == [*albef.read_text().split("\n")[:-1], "[DEC]", "[ENC]", ""]
