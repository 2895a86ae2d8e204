"""Tokenizers through transformers: found beside the weights, asked for plain ids only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import sources

__all__ = ["HuggingFaceTokenizer", "TokenizerError", "load_tokenizer"]

# A folder with any of these is taken for a tokenizer's.
FILES = ("tokenizer_config.json", "tokenizer.json", "vocab.json", "vocab.txt", "sentencepiece.bpe.model")
MEND = (
    "set backbone.tokenizer to a folder that holds one, or to a hub id such as 'openai/clip-vit-base-patch16'"
)


class TokenizerError(ValueError):
    """A tokenizer that cannot be loaded."""


class HuggingFaceTokenizer:
    """A tokenizer of transformers, as ``text.Tokenizer`` asks for it; texts it has seen come from a cache.

    Attributes:
        start: id of the token that opens a text (CLIP's start of text, BERT's ``[CLS]``).
        end: id of the token that closes a text.
        pad: id behind the end. No feature depends on it: texts are pooled at positions known from tokenising.
        context_length: most tokens of a text, special tokens included.
    """

    def __init__(self, tokenizer: Any, context_length: int) -> None:  # Any: transformers is imported lazily
        """Wrap a tokenizer.

        Raises:
            TokenizerError: it has no token to open or close a text.
        """
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id
        end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
        if start is None or end is None:
            raise TokenizerError(
                f"{tokenizer.name_or_path}: the tokenizer has no token that opens or closes a text "
                f"(bos_token {tokenizer.bos_token!r}, eos_token {tokenizer.eos_token!r}): name them in its "
                "tokenizer_config.json"
            )
        self.start: int = start
        self.end: int = end
        self.pad: int = end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self.context_length = context_length
        self._tokenizer = tokenizer
        self._seen: dict[str, tuple[int, ...]] = {}

    def __len__(self) -> int:
        """Number of ids; the backbone's vocabulary must be at least this."""
        return len(self._tokenizer)

    def encode(self, text: str) -> list[int]:
        """The ids of a text without special tokens."""
        if text not in self._seen:
            # No truncation: a text that is too long is the caller's error to tell, with its name.
            ids = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            self._seen[text] = tuple(ids)
        return list(self._seen[text])


def load_tokenizer(source: str | None, checkpoint: str | None, context_length: int) -> HuggingFaceTokenizer:
    """Load the tokenizer of a backbone.

    Args:
        source: folder, hub id or ``zoo:NAME``; None looks beside the checkpoint.
        checkpoint: the backbone's checkpoint, as ``checkpoints.load_checkpoint`` takes it.
        context_length: most tokens of a text, special tokens included.

    Raises:
        TokenizerError: there is none, or it cannot be read; says where it was looked for.
    """
    place = _place(source) if source else _beside(checkpoint)
    from transformers import AutoTokenizer

    folder = Path(place) if Path(place).is_dir() else None
    # The local cache first: an id that was fetched once needs no network, and does not wait for one.
    for cached in (True,) if folder else (True, False):
        try:
            return HuggingFaceTokenizer(
                AutoTokenizer.from_pretrained(place, local_files_only=cached), context_length
            )
        except TokenizerError:
            raise
        except Exception as error:  # The Rust library raises nothing more special for a damaged file.
            fault = error
    reason = str(fault).strip().split("\n")[0][:200].rstrip(".")
    held = _files(folder) if folder else "a hub id, which needs a network once"
    raise TokenizerError(f"{place}: no tokenizer could be loaded ({held}): {reason}; {MEND}") from fault


def _files(folder: Path) -> str:
    return "files: " + (", ".join(sorted(p.name for p in folder.iterdir())) or "none")


def _place(source: str) -> str:
    """The folder or hub id that a source means."""
    path = (
        sources.WEIGHTS / source.removeprefix(sources.ZOO)
        if source.startswith(sources.ZOO)
        else Path(source).expanduser()
    )
    if path.is_dir():
        if not any((path / name).is_file() for name in FILES):
            raise TokenizerError(f"{source}: the folder holds no tokenizer ({_files(path)}); {MEND}")
        return str(path)
    if not path.exists() and sources.is_hub_id(source):
        return source
    raise TokenizerError(f"{source}: no folder of a tokenizer; {MEND}")


def _beside(checkpoint: str | None) -> str:
    if checkpoint is None:
        raise TokenizerError(f"the backbone has neither a tokenizer nor a checkpoint to look beside: {MEND}")
    path = Path(checkpoint).expanduser()
    try:
        return _place(str(path.parent) if path.is_file() else checkpoint)
    except TokenizerError:
        raise TokenizerError(f"{checkpoint}: there is no tokenizer beside the checkpoint; {MEND}") from None
