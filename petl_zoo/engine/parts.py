"""The sets of a protocol as MMEngine's data loaders ask for them: by name, built once a process."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from petl_zoo.data import Parts
from petl_zoo.results.record import canonical_json
from registry import DATASETS, FUNCTIONS

from .faults import blaming
from .identity import COMPONENTS, plain


def split(dataset: Mapping[str, Any], protocol: Mapping[str, Any] | None, seed: int) -> Parts:
    """A protocol's sets on a data set; without a protocol all data are for training and nothing is evaluated.

    Raises:
        ConfigError: a file is missing or broken, or the data do not suffice for the protocol.
    """
    return _split(canonical_json(plain(dataset)), canonical_json(plain(protocol)), seed)


@lru_cache(maxsize=4)
def _split(dataset: str, protocol: str, seed: int) -> Parts:
    data, rule = _built("dataset", dataset), _built("protocol", protocol)
    if rule is None:
        return Parts(data, None, {})
    with blaming("protocol"):
        return rule.split(data, seed)


@lru_cache(maxsize=8)
def _built(section: str, config: str) -> Any:
    options = json.loads(config)
    with blaming(section):
        return None if options is None else COMPONENTS[section].build(options)


def describe(dataset: Mapping[str, Any], protocol: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """What a record says of the protocol and the data."""
    data, rule = (
        _built(section, canonical_json(plain(config)))
        for section, config in (("dataset", dataset), ("protocol", protocol))
    )
    return {
        "protocol": {"name": rule.name, "version": rule.version, "hash": rule.hash},
        "data": {
            "name": data.name,
            "hash": data.hash,
            "num_train": len(split(dataset, protocol, seed).train),  # type: ignore[arg-type]  # Ours have a length.
            "shots": getattr(rule, "shots", None) or None,  # 0 stands for all images.
        },
    }


@DATASETS.register_module(name="ProtocolPart")
def protocol_part(
    *, dataset: Mapping[str, Any], protocol: Mapping[str, Any] | None, seed: int, part: str
) -> Dataset:
    """One set of a protocol.

    Args:
        part: ``train``, ``val`` or ``test/NAME``.
    """
    parts = split(dataset, protocol, seed)
    return parts.test[part.removeprefix("test/")] if part.startswith("test/") else getattr(parts, part)


@FUNCTIONS.register_module()
def seed_worker(worker: int) -> None:
    """Seed a loading process from what torch drew for it, which differs from epoch to epoch as MMEngine's does not."""
    seed = torch.initial_seed() % 2**32
    random.seed(seed)
    np.random.seed(seed)
