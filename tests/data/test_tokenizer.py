"""The tokenizer that ships: trained reproducibly, and short enough for every name."""

from __future__ import annotations

import json
import re

import pytest
from tokenizers import Tokenizer

from petl_zoo.backbones.tokenizers import HuggingFaceTokenizer, load_tokenizer
from petl_zoo.data import Glyphs
from petl_zoo.data.glyphs import concepts
from petl_zoo.data.glyphs.pairs import TEMPLATES
from tools.train_tokenizer import OUT, WORD, corpus, train


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
