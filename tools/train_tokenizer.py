"""Train the byte-pair tokenizer that the tiny backbones share.

    python tools/train_tokenizer.py            # writes petl_zoo/weights/clip_tiny/tokenizer*.json

Deterministic: the corpus is made from the atlas's metadata and the word lists below, and ties between merges
are broken by the characters' order. As in CLIP, text is lower-cased and split into words, digits and signs,
and texts stand between ``<|startoftext|>`` and ``<|endoftext|>``. Words are marked at their beginning: the
trainer numbers tokens with an end mark in the order of a hash table, which differs from run to run.
"""

from __future__ import annotations

import argparse
import string
import sys
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from petl_zoo.data.glyphs.atlas import concepts
from petl_zoo.data.glyphs.render import COLOURS

START, END, UNKNOWN = "<|startoftext|>", "<|endoftext|>", "<|unknown|>"
OUT = Path(__file__).resolve().parents[1] / "petl_zoo" / "weights" / "clip_tiny"
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, help="folder to write to (default: %(default)s)")
    parser.add_argument("--size", type=int, default=2000, help="entries of the vocabulary")
    parser.add_argument("--context", type=int, default=32, help="most tokens of a text")
    args = parser.parse_args()
    tokenizer = train(args.size)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        unk_token=UNKNOWN,
        model_max_length=args.context,
    ).save_pretrained(args.out)
    lengths = [len(tokenizer.encode(c.name).ids) - 2 for c in concepts()]
    print(
        f"{tokenizer.get_vocab_size()} entries; names take {sum(lengths) / len(lengths):.2f} tokens "
        f"on average, {max(lengths)} at most -> {args.out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
