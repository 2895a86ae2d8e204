"""Where weights come from: find the files that a source means, and read their tensors safely."""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

__all__ = [
    "MEND",
    "WEIGHTS",
    "WEIGHT_FILES",
    "ZOO",
    "CheckpointError",
    "is_hub_id",
    "listed",
    "locate",
    "read_state",
]

WEIGHTS = Path(__file__).parents[1] / "weights"
ZOO = "zoo:"
# In the order in which they are looked for; a shard index comes after the files it would split.
WEIGHT_FILES = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
SHARD_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
MEND = "Set backbone.checkpoint to a weight file, a Hugging Face folder, a hub id 'org/name' or 'zoo:NAME'."


class CheckpointError(ValueError):
    """Weights that cannot be loaded; ``faults`` lists why, a paragraph each."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = list(faults)


def locate(source: str) -> list[Path]:
    """Find the files that a source means: one, or the shards of one.

    Raises:
        CheckpointError: there are none; says what was looked for and how to get it.
    """
    if source.startswith(ZOO):
        name = source.removeprefix(ZOO)
        path = WEIGHTS / name / "model.safetensors"
        if name and path.is_file():
            return [path]
        shipped = sorted(p.parent.name for p in WEIGHTS.glob("*/model.safetensors"))
        raise CheckpointError(
            f"{source}: no such weights ship with the project; these do: {listed(shipped)}. {MEND}"
        )
    path = Path(source).expanduser()
    if path.is_file():
        return _shards(path) if path.name.endswith(".index.json") else [path]
    if path.is_dir():
        for name in (*WEIGHT_FILES, *SHARD_INDEXES):
            if (path / name).is_file():
                return locate(str(path / name))
        found = sorted(p.name for p in path.iterdir())
        raise CheckpointError(
            f"{source}: the folder holds no weights, only {listed(found)}; looked for {listed(WEIGHT_FILES)} "
            f"or a shard index. {MEND}"
        )
    if is_hub_id(source):
        return [_download(source)]
    message = f"{source}: there is no such file or folder."
    if path.parent.is_dir():
        near = get_close_matches(path.name, (p.name for p in path.parent.iterdir()))
        message += f" Did you mean {path.parent / near[0]}?" if near else ""
    raise CheckpointError(f"{message} {MEND}")


def is_hub_id(source: str) -> bool:
    """Whether a source that is no existing path reads as a hub id: ``org/name``, and no missing file."""
    return re.fullmatch(r"\w[\w.-]*/[\w.-]+", source) is not None and not source.endswith(SUFFIXES)


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{index}: no shard index ({error!r}): it must be JSON with a 'weight_map'. Get it again."
        ) from error
    absent = [name for name in names if not (index.parent / name).is_file()]
    if absent:
        raise CheckpointError(
            f"{index}: of its {len(names)} shards these are missing: {listed(absent)}. Get them too."
        )
    return [index.parent / name for name in names]


def _download(hub_id: str) -> Path:
    """Get the weights of a hub id, from the local cache first: a second run needs no network."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    reason = "it holds none of the files " + listed(WEIGHT_FILES)
    for cached in (True, False):
        for name in WEIGHT_FILES:
            try:
                return Path(hf_hub_download(hub_id, name, local_files_only=cached))
            except LocalEntryNotFoundError:
                if not cached:
                    reason = "there is no network, and it is not in the local cache"
                    break
            except EntryNotFoundError:
                continue
            except (OSError, ValueError) as error:
                reason = str(error).strip().split("\n")[0]
                break
    raise CheckpointError(
        f"{hub_id}: no such path here, and as a hub id it cannot be fetched: {reason}. Where "
        f"there is a network, run 'hf download {hub_id} --local-dir DIR', copy DIR here, and set "
        "backbone.checkpoint=DIR."
    )


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of one file under the names in it, without what training code wraps around them.

    Only tensors are ever made from a file; a pickle that wants to make anything else is refused.

    Raises:
        CheckpointError: the file is empty, damaged, no checkpoint, or not safe to read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise CheckpointError(
            f"{path}: the file cannot be read ({error.strerror}): see to its permissions."
        ) from error
    if not head:
        raise CheckpointError(
            f"{path}: the file is empty (0 bytes): a download or copy failed. Get it again."
        )
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path}: this is a git-lfs pointer and not the weights. Run 'git lfs pull' in its repository, "
            "or get the file itself."
        )
    try:
        if path.suffix == ".safetensors" or head[8:9] == b"{":
            content: object = safetensors.torch.load_file(path)
        elif not head.startswith(b"PK"):
            content = torch.load(path, map_location="cpu", weights_only=True)  # as torch wrote it before 1.6
        elif _is_torchscript(path):
            content = _read_torchscript(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        foreign = sorted(set(re.findall(r"GLOBAL ([\w.]+)", str(error))))
        if not foreign:
            raise CheckpointError(_damaged(path, error)) from error
        raise CheckpointError(
            f"{path}: the file is refused, because it holds objects besides tensors ({', '.join(foreign)}), "
            "and making those can run any code. Where you trust it, save its weights alone: "
            "torch.save(model.state_dict(), 'weights.pt'), or better as .safetensors."
        ) from error
    except Exception as error:  # Three parsers, and damaged bytes can make each of them raise anything.
        raise CheckpointError(_damaged(path, error)) from error
    return _unwrapped(path, content)


def _damaged(path: Path, error: Exception) -> str:
    reason = str(error).strip().split("\n")[0][:160].rstrip(".")
    return (
        f"{path}: the file ({path.stat().st_size:,} bytes) is truncated, damaged or no checkpoint "
        f"({type(error).__name__}: {reason}). Allowed are .safetensors, a state dict saved by "
        "torch.save, and OpenAI's TorchScript archives. Get it again, and compare its size and checksum with "
        "the publisher's."
    )


def _is_torchscript(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _read_torchscript(path: Path) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        # torch advises authors to export otherwise; OpenAI's files are what they are.
        warnings.filterwarnings("ignore", message=".*torch.jit.load.*deprecated", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*torch.jit.load.*deprecated", category=DeprecationWarning)
        module = torch.jit.load(str(path), map_location="cpu")
    state: dict[str, Tensor] = module.state_dict()
    return state


def _unwrapped(path: Path, content: object) -> dict[str, Tensor]:
    """Take the state dict out of what training code saves around it."""
    while isinstance(content, Mapping):
        inner = [content.get(key) for key in ("state_dict", "model", "module")]
        inner = [value for value in inner if isinstance(value, Mapping)]
        if not inner:
            break
        content = inner[0]
    tensors = content.items() if isinstance(content, Mapping) else ()
    state = {name: t for name, t in tensors if isinstance(name, str) and isinstance(t, Tensor)}
    if not state:
        held = type(content).__name__
        raise CheckpointError(
            f"{path}: the file holds no named tensors, but an object of type {held}. {MEND}"
        )
    for prefix in ("module.", "_orig_mod."):  # DistributedDataParallel, torch.compile
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): t for name, t in state.items()}
    inside = {n.removeprefix("backbone."): t for n, t in state.items() if n.startswith("backbone.")}
    return inside or state


def listed(names: Iterable[object], limit: int = 8) -> str:
    """Write names out, the first ``limit`` of them."""
    words = list(map(str, names))
    more = f" and {len(words) - limit} more" if len(words) > limit else ""
    return (", ".join(words[:limit]) or "nothing") + more
