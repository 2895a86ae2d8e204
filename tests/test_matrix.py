"""The support matrix: every combination is tried, the page is what comes out, and what does not work is not hidden."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from petl_zoo.engine.matrix import Cell, cells, render, try_cell
from petl_zoo.heads import ClassificationHead
from petl_zoo.tuners import Frozen, Tuner
from registry import BACKBONES, TUNERS
from tests.conftest import SIZES, WordTokenizer
from tools import matrix as tool

CLIP = {"type": "CLIP", **SIZES, "tokenizer": WordTokenizer()}


@pytest.fixture(scope="module")
def found() -> list[Cell]:
    return list(cells())


def test_the_page_is_what_comes_out(found: list[Cell]) -> None:
    assert tool.PAGE.read_text(encoding="utf-8") == render(found), "make it anew with python tools/matrix.py"


def test_every_combination_of_what_is_registered_is_there(found: list[Cell]) -> None:
    ours = [
        [name for name, cls in registry.module_dict.items() if cls.__module__.startswith("petl_zoo.")]
        for registry in (BACKBONES, TUNERS)
    ]
    # They are what their members and their file are.
    ours[1] = [name for name in ours[1] if name not in ("Stack", "FixedPrompts")]
    every = itertools.product(("ClassificationHead", "RetrievalHead"), *ours)
    assert sorted((c.head, c.backbone, c.tuner) for c in found) == sorted(every)


def test_what_cannot_work_says_why(found: list[Cell]) -> None:
    refused = {(c.head, c.tuner) for c in found if c.reason is not None}
    without_classes = ("CoCoOp", "LinearProbe", "MMLoP", "PromptSRC")
    assert refused == {("RetrievalHead", tuner) for tuner in without_classes}
    assert all(c.reason is None or c.reason.startswith(c.tuner) for c in found)


def test_equal_reasons_share_a_note_and_mends_are_left_out() -> None:
    reason = "{} needs the stream fusion, but B has text: take another backbone"
    page = render(
        [
            Cell("Head", "A", "Deep"),
            Cell("Head", "A", "Wide"),
            Cell("Head", "B", "Deep", reason.format("Deep")),
            Cell("Head", "B", "Wide", reason.format("Wide")),
            Cell("Other", "A", "Deep", reason.format("Deep")),
            Cell("Other", "A", "Wide"),
            Cell("Other", "B", "Deep", "B has no scenes; it has 3 classes"),
            Cell("Other", "B", "Wide"),
        ]
    )
    assert page[page.index("## Head") :].splitlines() == [
        "## Head",
        "",
        "| tuner | A | B |",
        "| --- | :---: | :---: |",
        "| Deep | yes | —[^1] |",
        "| Wide | yes | —[^2] |",
        "",
        "## Other",
        "",
        "| tuner | A | B |",
        "| --- | :---: | :---: |",
        "| Deep | —[^1] | —[^3] |",
        "| Wide | yes | yes |",
        "",
        "[^1]: Deep needs the stream fusion, but B has text.",
        "[^2]: Wide needs the stream fusion, but B has text.",
        "[^3]: B has no scenes.",
    ]


def test_the_tool_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [Cell("Head", "A", "Plain"), Cell("Head", "A", "Deep", "no")]
    monkeypatch.setattr(tool, "cells", lambda: iter(few))
    tool.main(["--out", str(tmp_path / "page.md")])
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == render(few)
    assert capsys.readouterr().out.startswith("1 of 2 combinations work")


@pytest.fixture
def idle() -> Iterator[str]:
    """A tuner with a parameter that nothing uses."""

    @TUNERS.register_module()
    class Idle(Tuner):
        def attach(self, backbone: Any, classes: Any) -> None:
            self.left = nn.Parameter(torch.zeros(2))
            self.right = nn.Parameter(torch.zeros(2))

        def readout(
            self, image: torch.Tensor, text: torch.Tensor, frozen: Frozen
        ) -> tuple[torch.Tensor, torch.Tensor]:
            return image + self.left.sum(), text

    yield "Idle"
    TUNERS.module_dict.pop("Idle")


def test_a_parameter_without_a_gradient_is_a_fault(idle: str) -> None:
    with pytest.raises(RuntimeError, match=r"Idle on CLIP for ClassificationHead: no gradient reaches tuner.right$"):
        try_cell(CLIP, "ClassificationHead", idle)


def test_a_loss_that_is_no_number_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClassificationHead, "loss", lambda *_, **__: {"loss": torch.tensor(float("nan"))})
    with pytest.raises(RuntimeError, match="NoTuner on CLIP for ClassificationHead: a loss or a parameter is not fin"):
        try_cell(CLIP, "ClassificationHead", "NoTuner")


def test_what_fails_without_a_reason_is_not_taken_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ValueError("shapes do not fit")

    monkeypatch.setattr(ClassificationHead, "loss", broken)
    with pytest.raises(ValueError, match="shapes do not fit"):
        try_cell(CLIP, "ClassificationHead", "CoOp")
