"""Train the tokenizers of the tiny backbones: CLIP's byte pairs, BLIP's and ALBEF's WordPiece, BEiT-3's SentencePiece.

    python tools/train_tokenizer.py                  # writes petl_zoo/weights/clip_tiny/tokenizer*.json
    python tools/train_tokenizer.py --kind blip      # writes petl_zoo/weights/blip_tiny/vocab.txt and its config

Deterministic: the corpus is made from the atlas's metadata and the word lists below, and ties are broken by the
characters' order. As in CLIP, text is lower-cased and split into words, digits and signs, and texts stand between
``<|startoftext|>`` and ``<|endoftext|>``. Words are marked at their beginning: the trainer numbers tokens with an
end mark in the order of a hash table, which differs from run to run. The trainer of WordPiece numbers its tokens
so too, and there is no other mark: the vocabulary is counted here instead.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import string
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from petl_zoo.backbones.tokenizers import BERT_SPECIAL, load_tokenizer
from petl_zoo.data.glyphs.atlas import concepts
from petl_zoo.data.glyphs.render import COLOURS

START, END, UNKNOWN = "<|startoftext|>", "<|endoftext|>", "<|unknown|>"
WEIGHTS = Path(__file__).resolve().parents[1] / "petl_zoo" / "weights"
OUT = WEIGHTS / "clip_tiny"
WORD = r"[a-z]+|[0-9]|[^\sa-z0-9]"

# Words that captions, questions and answers about composed pictures need, whatever the objects are.
SCENE_WORDS = (
    "a an the of on in at to is are there this that it and or not no yes with without near between next both "
    "photo picture image drawing sketch emoji icon cartoon scene background style artist something object "
    "thing type "
    "zero one two three four five six seven eight nine ten many few several all each "
    "left right above below top bottom middle center side under over behind front beside "
    "what which who where when how why does do can see count number color colour kind shape first last then "
    "before after while moves moving move appears disappears goes comes up down frame video clip fast slow "
    "big small large little bright dark light clean close good bad white brown shown named called answer "
    "question"
)

# Further words for the backbones that are pretrained on composed scenes; CLIP's shipped merges stay as they are.
LAYOUT_WORDS = (
    "row column corner line pair couple group together alone only single against plain backdrop stands standing "
    "sits sitting placed beneath underneath atop upper lower higher far close next another other both different "
    "same shows showing while where centre full empty half part"
)
# Plurals that are not the singular and an ending.
PLURALS = "mice wolves leaves knives loaves scarves people men women children geese feet teeth oxen buses foxes"
# A word that occurs less often than this in the corpus is cut up where stem and ending are tokens.
WHOLE = 20


def corpus() -> Iterator[str]:
    """Texts, repeated by importance: the trainer merges what is frequent."""
    for character in string.printable:
        if not character.isspace():
            yield character  # so that every character exists
    for word in [*SCENE_WORDS.split(), *COLOURS]:
        for _ in range(60):
            yield word
    for concept in concepts():
        for _ in range(20):
            yield f"a photo of {concept.noun}."
        yield f"three {concept.name}s"
        for word in concept.keywords:
            yield word
    for kind in sorted({concept.kind for concept in concepts()}):
        for _ in range(20):
            yield f"a photo of a {kind}."


def train(size: int) -> Tokenizer:
    """Train a tokenizer of at most ``size`` entries."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True)
    mark = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, mark])
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[START, END, UNKNOWN],
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}",
        special_tokens=[(START, tokenizer.token_to_id(START)), (END, tokenizer.token_to_id(END))],
    )
    return tokenizer


def scene_corpus() -> Iterator[str]:
    """The corpus with more words for composed scenes."""
    yield from corpus()
    for word in [*LAYOUT_WORDS.split(), *PLURALS.split()]:
        for _ in range(60):
            yield word
    for concept in concepts():
        if concept.name.endswith("y") and concept.name[-2] not in "aeiou":
            for _ in range(WHOLE):
                yield f"{concept.name[:-1]}ies"


def wordpiece(size: int) -> list[str]:
    """The vocabulary of BERT's lower-case WordPiece: at most ``size`` entries, special tokens first.

    All characters, at a word's beginning and within it; the endings by which known words become other known words;
    then the most frequent words. A rare word that is a known stem and such an ending gets no entry: its plural is
    learned with every other plural.
    """
    clean, split = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    words: Counter[str] = Counter()
    for text, times in Counter(scene_corpus()).items():
        for word, _ in split.pre_tokenize_str(clean.normalize_str(text)):
            words[word] += times
    characters = sorted({character for word in words for character in word})
    endings = Counter(
        word[cut:] for word in words for cut in range(max(2, len(word) - 4), len(word)) if word[:cut] in words
    )
    frequent = sorted(ending for ending, count in endings.items() if count >= 5 and len(ending) > 1)
    inner = [c for c in characters if c.isalnum()] + frequent
    cut_up = {
        word
        for word, count in words.items()
        if count < WHOLE and any(word.endswith(end) and word.removesuffix(end) in words for end in ("s", "es"))
    }
    entries = dict.fromkeys([*BERT_SPECIAL, *characters, *(f"##{piece}" for piece in inner)])
    ranked = sorted(words.keys() - cut_up, key=lambda word: (-words[word], word))
    return list(entries | dict.fromkeys(ranked))[:size]


def sentence_pieces(size: int) -> bytes:
    """A lower-casing SentencePiece model of at most ``size`` pieces, as the bytes of its file."""

    def sentences() -> Iterator[str]:
        # What occurs in one word only, however often, is never taken for a piece: with a full stop it is two.
        for text in scene_corpus():
            yield text
            yield f"{text}."

    model, here = io.BytesIO(), Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        # The model holds this file's path as it is given: a bare name is the same everywhere.
        os.chdir(folder)
        try:
            # The rules that ship with SentencePiece fold all of Unicode, and weigh ten times the rest.
            rules = [(c, c.lower()) for c in string.ascii_uppercase] + [(c, " ") for c in "\t\n\r"]
            Path("lower.tsv").write_text("".join(f"{ord(a):X}\t{ord(b):X}\n" for a, b in rules))
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=sentences(),
                model_writer=model,
                vocab_size=size,
                model_type="unigram",
                character_coverage=1.0,
                normalization_rule_tsv="lower.tsv",
                split_digits=True,
                num_threads=1,
                minloglevel=2,
            )
        finally:
            os.chdir(here)
    return model.getvalue()


def write_clip(folder: Path, *, size: int, context: int) -> None:
    """Write byte pairs as transformers saves them."""
    PreTrainedTokenizerFast(
        tokenizer_object=train(size),
        bos_token=START,
        eos_token=END,
        pad_token=END,
        unk_token=UNKNOWN,
        model_max_length=context,
    ).save_pretrained(folder)


def write_bert(folder: Path, *, size: int, context: int, extra: Sequence[str] = ()) -> None:
    """Write a WordPiece vocabulary, the extra entries at its end, and its config."""
    entries = [*wordpiece(size), *extra]
    (folder / "vocab.txt").write_text("".join(f"{entry}\n" for entry in entries))
    config = {"do_lower_case": True, "model_max_length": context, "tokenizer_class": "BertTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("clip", "blip", "albef", "beit3"), default="clip", help="whose tokenizer")
    parser.add_argument("--out", type=Path, help="folder to write to (default: petl_zoo/weights/KIND_tiny)")
    parser.add_argument("--size", type=int, default=2000, help="entries of the vocabulary")
    parser.add_argument("--context", type=int, default=32, help="most tokens of a text")
    args = parser.parse_args(argv)
    out: Path = args.out or WEIGHTS / f"{args.kind}_tiny"
    out.mkdir(parents=True, exist_ok=True)
    if args.kind == "clip":
        write_clip(out, size=args.size, context=args.context)
    elif args.kind == "beit3":
        (out / "beit3.spm").write_bytes(sentence_pieces(args.size))
    else:
        extra = ("[DEC]", "[ENC]") if args.kind == "blip" else ()
        write_bert(out, size=args.size, context=args.context, extra=extra)
    tokenizer = load_tokenizer(str(out), None, args.context, kind=args.kind)
    lengths = [len(tokenizer.encode(concept.name)) for concept in concepts()]
    print(
        f"{len(tokenizer)} ids; names take {sum(lengths) / len(lengths):.2f} tokens on average, "
        f"{max(lengths)} at most -> {out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
