"""The contrastive loss over several processes is that of the joint batch, gradients included."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from petl_zoo.heads import RetrievalHead
from petl_zoo.model import VLModel
from petl_zoo.tuners import MaPLe
from tests.conftest import make_clip, pair_batch

WORLD = 2


def loss_and_gradients(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = VLModel(make_clip().double(), MaPLe(length=2, depth=2).double(), RetrievalHead()).double().eval()
    loss = model(**batch, mode="loss")["loss_itc"]
    loss.backward()
    return {"loss": loss.detach(), **{name: p.grad for name, p in model.trained_parameters().items()}}


def batch_of(rank: int | None) -> dict[str, Any]:
    batch = pair_batch()
    images = batch["images"].double()
    if rank is None:
        return {**batch, "images": images}
    part = slice(2 * rank, 2 * rank + 2)
    return {"images": images[part], "captions": batch["captions"][part], "ids": batch["ids"][part]}


def work(rank: int, out: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}/meet", rank=rank, world_size=WORLD)
    found = loss_and_gradients(batch_of(rank))
    for value in found.values():  # What DistributedDataParallel does to gradients.
        dist.all_reduce(value)
        value /= WORLD
    if rank == 0:
        torch.save(found, f"{out}/found.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_gloo_available(), reason="torch was built without gloo")
def test_two_processes_give_the_loss_and_gradients_of_one(tmp_path: Path) -> None:
    mp.spawn(work, args=(str(tmp_path),), nprocs=WORLD)
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    alone = loss_and_gradients(batch_of(None))
    assert found.keys() == alone.keys()
    for name, value in alone.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
