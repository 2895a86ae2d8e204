"""The sets of a protocol as MMEngine's data loaders ask for them: by name, built once a process."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from petl_zoo.results.record import canonical_json
from registry import DATASETS, FUNCTIONS, PROTOCOLS

from .identity import plain


@dataclass(frozen=True)
class Parts:
    """The sets of a run without a protocol: all data are for training, and nothing is evaluated."""

    train: Any
    val: None = None
    test: Mapping[str, Any] = field(default_factory=dict)


def split(dataset: Mapping[str, Any], protocol: Mapping[str, Any] | None, seed: int) -> Any:
    """A protocol's training, validation and test sets on a data set."""
    return _split(canonical_json(plain(dataset)), canonical_json(plain(protocol)), seed)


@lru_cache(maxsize=4)
def _split(dataset: str, protocol: str, seed: int) -> Any:
    data, chosen = DATASETS.build(json.loads(dataset)), json.loads(protocol)
    return Parts(data) if chosen is None else PROTOCOLS.build(chosen).split(data, seed)


def describe(dataset: Mapping[str, Any], protocol: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """What a record says of the protocol and the data."""
    built, data = PROTOCOLS.build(dict(protocol)), DATASETS.build(dict(dataset))
    parts = split(dataset, protocol, seed)
    return {
        "protocol": {"name": built.name, "version": built.version, "hash": built.hash},
        "data": {
            "name": data.name,
            "hash": data.hash,
            "num_train": len(parts.train),
            "shots": getattr(built, "shots", None),
        },
    }


@DATASETS.register_module(name="ProtocolPart")
def protocol_part(*, dataset: Mapping[str, Any], protocol: Mapping[str, Any] | None, seed: int, part: str) -> Dataset:
    """One set of a protocol.

    Args:
        part: ``train``, ``val`` or ``test/NAME``.
    """
    parts = split(dataset, protocol, seed)
    return parts.test[part.removeprefix("test/")] if part.startswith("test/") else getattr(parts, part)


@FUNCTIONS.register_module()
def seed_worker(worker: int) -> None:
    """Seed a loading process from what torch drew for it, which differs from epoch to epoch; MMEngine's own does not."""
    seed = torch.initial_seed() % 2**32
    random.seed(seed)
    np.random.seed(seed)
