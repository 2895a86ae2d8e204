"""Tokenizers through transformers and sentencepiece: found beside the weights, asked for plain ids only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import sources

__all__ = [
    "KINDS",
    "BERTTokenizer",
    "BEiT3Tokenizer",
    "BLIPTokenizer",
    "HuggingFaceTokenizer",
    "PretrainedTokenizer",
    "TokenizerError",
    "load_tokenizer",
]

# SentencePiece models under the names that they are published with.
PIECE_FILES = ("beit3.spm", "sentencepiece.bpe.model")
# A folder with any of these is taken for a tokenizer's.
FILES = ("tokenizer_config.json", "tokenizer.json", "vocab.json", "vocab.txt", *PIECE_FILES)
BERT = "bert-base-uncased"
BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


REMEMBERED = 50_000  # texts whose ids are kept


class TokenizerError(ValueError):
    """A tokenizer that cannot be loaded."""


class PretrainedTokenizer:
    """A tokenizer as ``text.Tokenizer`` asks for it; texts it has seen come from a cache.

    Attributes:
        start: id of the token that opens a text (CLIP's start of text, BERT's ``[CLS]``).
        end: id of the token that closes a text; None where texts stay open.
        pad: id behind the end. No feature depends on it: texts are pooled at positions known from tokenising.
        mask: id that stands for a hidden token; None where there is none.
        context_length: most tokens of a text, special tokens included.
    """

    start: int
    end: int | None
    pad: int
    mask: int | None = None

    def __init__(self, context_length: int) -> None:
        self.context_length = context_length
        self._seen: dict[str, tuple[int, ...]] = {}

    def __len__(self) -> int:
        """Number of ids; the backbone's vocabulary must be at least this."""
        raise NotImplementedError

    def encode(self, text: str) -> list[int]:
        """The ids of a text without special tokens."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of several texts without special tokens; those not in the cache are found together."""
        known = {text: self._seen[text] for text in texts if text in self._seen}
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            found = {text: tuple(ids) for text, ids in zip(new, self._ids(new), strict=True)}
            known |= found
            if len(self._seen) + len(new) > REMEMBERED:
                self._seen.clear()  # Pre-training never sees most captions again.
            self._seen |= found
        return [list(known[text]) for text in texts]

    def _ids(self, texts: Sequence[str]) -> Sequence[Sequence[int]]:
        raise NotImplementedError


class HuggingFaceTokenizer(PretrainedTokenizer):
    """A tokenizer of transformers, such as CLIP's."""

    def __init__(self, tokenizer: Any, context_length: int) -> None:  # Any: transformers is imported lazily
        """Wrap a tokenizer.

        Raises:
            TokenizerError: it has no token to open or close a text.
        """
        super().__init__(context_length)
        self._tokenizer = tokenizer
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id
        end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
        if start is None or end is None:
            raise TokenizerError(
                f"{tokenizer.name_or_path}: the tokenizer has no token that opens or closes a text "
                f"(bos_token {tokenizer.bos_token!r}, eos_token {tokenizer.eos_token!r}): name them in its "
                "tokenizer_config.json"
            )
        self.start, self.end = start, end
        self.pad = end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self.mask = tokenizer.mask_token_id

    def __len__(self) -> int:
        return len(self._tokenizer)

    def _ids(self, texts: Sequence[str]) -> Sequence[Sequence[int]]:
        # No truncation: a text that is too long is the caller's error to tell, with its name.
        ids: list[list[int]] = self._tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return ids


class BERTTokenizer(HuggingFaceTokenizer):
    """BERT's WordPiece as ALBEF uses it: texts begin with ``[CLS]`` and stay open.

    Attributes:
        separator: id of ``[SEP]``, which closes an answer.

    Source: ALBEF's tokenizer, which unlike BERT's puts no ``[SEP]`` behind a single text.
    """

    mask: int

    def __init__(self, tokenizer: Any, context_length: int) -> None:  # Any: transformers is imported lazily
        """Wrap a tokenizer.

        Raises:
            TokenizerError: it has not BERT's special tokens.
        """
        # Without added tokens: transformers adds what a vocabulary lacks, even to one that is not BERT's.
        entries = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)
        absent = [token for token in BERT_SPECIAL if token not in entries]
        if absent:
            raise TokenizerError(
                f"{tokenizer.name_or_path}: this is not BERT's vocabulary, it has no {', '.join(absent)}; "
                f"{_mend('blip')}"
            )
        super().__init__(tokenizer, context_length)
        self.start, self.end, self.pad = entries["[CLS]"], None, entries["[PAD]"]
        self.separator: int = entries["[SEP]"]
        self.mask = entries["[MASK]"]


class BLIPTokenizer(BERTTokenizer):
    """BERT's WordPiece with BLIP's two tokens, which are added where they are absent.

    Attributes:
        dec: id of ``[DEC]``, which opens a text for the decoder.
        enc: id of ``[ENC]``, which opens a text that is read together with an image.
    """

    def __init__(self, tokenizer: Any, context_length: int) -> None:  # Any: transformers is imported lazily
        super().__init__(tokenizer, context_length)
        self.end = self.separator
        # In this order: 30522 and 30523 behind bert-base-uncased, as BLIP's checkpoints have them.
        tokenizer.add_special_tokens({"additional_special_tokens": ["[DEC]", "[ENC]"]})
        self.dec: int = tokenizer.convert_tokens_to_ids("[DEC]")
        self.enc: int = tokenizer.convert_tokens_to_ids("[ENC]")


class BEiT3Tokenizer(PretrainedTokenizer):
    """A SentencePiece model with the ids of XLM-RoBERTa: 0 to 3 are special, piece n is n + 1, the mask is last.

    Source: transformers' XLMRobertaTokenizer, which BEiT-3 reads ``beit3.spm`` with.
    """

    start, pad, end, unknown = 0, 1, 2, 3
    mask: int

    def __init__(self, path: Path, context_length: int) -> None:
        """Read a model.

        Raises:
            TokenizerError: the file is damaged or no SentencePiece model.
        """
        import sentencepiece

        super().__init__(context_length)
        self._pieces = sentencepiece.SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(path.read_bytes())
        except (OSError, RuntimeError) as error:
            raise TokenizerError(f"{path}: no SentencePiece model ({error}); get the file again") from error
        self.mask = self._pieces.get_piece_size() + 1

    def __len__(self) -> int:
        return self.mask + 1

    def _ids(self, texts: Sequence[str]) -> Sequence[Sequence[int]]:
        # 0 is SentencePiece's unknown piece.
        return [
            [piece + 1 if piece else self.unknown for piece in pieces] for pieces in self._pieces.encode(list(texts))
        ]


# What wraps a tokenizer of transformers, by kind; BEiT-3's own file is a SentencePiece model.
KINDS: dict[str, type[HuggingFaceTokenizer]] = {
    "clip": HuggingFaceTokenizer,
    "blip": BLIPTokenizer,
    "albef": BERTTokenizer,
    "beit3": HuggingFaceTokenizer,
}


def load_tokenizer(
    source: str | None, checkpoint: str | None, context_length: int, *, kind: str = "clip"
) -> PretrainedTokenizer:
    """Load the tokenizer of a backbone.

    Args:
        source: folder, hub id or ``zoo:NAME``, for BEiT-3 also the file of a SentencePiece model; None looks beside
            the checkpoint, and for BLIP and ALBEF takes bert-base-uncased where there is none.
        checkpoint: the backbone's checkpoint, as ``checkpoints.load_checkpoint`` takes it.
        context_length: most tokens of a text, special tokens included.
        kind: one of ``KINDS``.

    Raises:
        TokenizerError: there is none, or it cannot be read; says where it was looked for.
    """
    place = _place(source, kind) if source else _beside(checkpoint, kind)
    folder = Path(place) if Path(place).exists() else None
    if kind == "beit3" and folder and (model := _piece_file(folder)):
        return BEiT3Tokenizer(model, context_length)
    from transformers import AutoTokenizer

    # Beside a lone vocabulary nothing says whose it is.
    lone = folder is not None and kind in ("blip", "albef") and not list(folder.glob("tokenizer*.json"))
    told = {"tokenizer_type": "bert"} if lone else {}
    # The local cache first: an id that was fetched once needs no network, and does not wait for one.
    for cached in (True,) if folder else (True, False):
        try:
            tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=cached, **told)
            return KINDS[kind](tokenizer, context_length)
        except TokenizerError:
            raise
        except Exception as error:  # The Rust library raises nothing more special for a damaged file.
            fault = error
    reason = str(fault).strip().split("\n")[0][:200].rstrip(".")
    held = _files(folder) if folder else "a hub id, which needs a network once"
    raise TokenizerError(f"{place}: no tokenizer could be loaded ({held}): {reason}; {_mend(kind)}") from fault


def _mend(kind: str) -> str:
    if kind == "beit3":
        return "set backbone.tokenizer to the file beit3.spm of BEiT-3, or to a folder that holds it"
    example = BERT if kind in ("blip", "albef") else "openai/clip-vit-base-patch16"
    return f"set backbone.tokenizer to a folder that holds one, or to a hub id such as '{example}'"


def _files(folder: Path) -> str:
    return "files: " + (", ".join(sorted(p.name for p in folder.iterdir())) or "none")


def _piece_file(path: Path) -> Path | None:
    """The SentencePiece model that a file or folder is or holds."""
    if path.is_file():
        return path
    return next((path / name for name in PIECE_FILES if (path / name).is_file()), None)


def _place(source: str, kind: str) -> str:
    """The folder, file or hub id that a source means."""
    path = (
        sources.WEIGHTS / source.removeprefix(sources.ZOO)
        if source.startswith(sources.ZOO)
        else Path(source).expanduser()
    )
    if path.is_dir():
        if not any((path / name).is_file() for name in FILES):
            raise TokenizerError(f"{source}: the folder holds no tokenizer ({_files(path)}); {_mend(kind)}")
        return str(path)
    if kind == "beit3" and path.is_file():
        return str(path)
    if not path.exists() and (sources.is_hub_id(source) or source == BERT):
        return source
    raise TokenizerError(f"{source}: no folder of a tokenizer; {_mend(kind)}")


def _beside(checkpoint: str | None, kind: str) -> str:
    """The place of the tokenizer that goes with a checkpoint."""
    path = Path(checkpoint).expanduser() if checkpoint else None
    try:
        if checkpoint and path:
            return _place(str(path.parent) if path.is_file() else checkpoint, kind)
        fault = "the backbone has neither a tokenizer nor a checkpoint to look beside"
    except TokenizerError:
        fault = f"{checkpoint}: there is no tokenizer beside the checkpoint"
    if kind in ("blip", "albef"):
        return BERT  # What their authors publish weights for, without the tokenizer.
    raise TokenizerError(f"{fault}; {_mend(kind)}")
