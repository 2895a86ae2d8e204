"""Every kind of fault of a config is found, named and mended, before anything is written; all of them at once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sized
from pathlib import Path
from typing import Any

import pytest
import torch

from petl_zoo.engine import launch
from petl_zoo.engine.counting import count_parameters
from petl_zoo.engine.faults import ConfigError, Fault
from petl_zoo.engine.merging import load
from petl_zoo.engine.signatures import fits
from petl_zoo.engine.validate import validate
from petl_zoo.heads import RetrievalHead

from .conftest import CONFIGS, MAPLE, RETRIEVAL, SMALL, arguments


def faults(options: dict[str, Any], config: str = "clip_maple") -> list[str]:
    """The faults of a shipped config with some options changed."""
    try:
        return [str(fault) for fault in validate(load(CONFIGS / "glyphs" / f"{config}.py", options), options)]
    except ConfigError as error:
        return [str(fault) for fault in error.faults]


def test_a_right_config_has_no_fault() -> None:
    assert faults(MAPLE) == []
    assert faults({**MAPLE, "runtime.visualizers": ["LocalVisBackend", "TensorboardVisBackend"]}) == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"rutime.seed": 3}, ["rutime: no such key", "did you mean 'runtime'?"]),
        ({"seed": 3}, ["seed: no such key", "did you mean 'runtime.seed'?"]),
        ({"tuner.type": "Maple"}, ["tuner.type: no tuner 'Maple'", "there are", "CoOp", "did you mean 'MaPLe'?"]),
        ({"dataset.type": "Glyph"}, ["dataset.type: no dataset 'Glyph'", "did you mean 'Glyphs'?"]),
        ({"tuner.dpeth": 2}, ["tuner.dpeth: MaPLe has no option 'dpeth' (value 2)", "depth", "(from --cfg-options)"]),
        ({"schedule.learning_rate": 1.0}, ["schedule.learning_rate: no such key", "there are epochs"]),
        ({"runtime.sed": 1}, ["runtime.sed", "did you mean 'seed'?"]),
        ({"schedule.optimizer.type": "AdamWW"}, ["schedule.optimizer.type: no schedule.optimizer 'AdamWW'", "AdamW"]),
        ({"schedule.optimizer.bettas": 1.0}, ["schedule.optimizer.bettas: AdamW has no option", "'betas'?"]),
        ({"runtime.visualizers": ["Tensorboard"]}, ["runtime.visualizers.type: no", "'TensorboardVisBackend'?"]),
        ({"tuner.depth": "three"}, ["tuner.depth: 'three' is not allowed; give int"]),
        ({"schedule.lr": "fast"}, ["schedule.lr: 'fast' is not allowed; give float"]),
        ({"schedule.epochs": 0}, ["schedule: epochs (0) must be at least 1"]),
        ({"tuner": 3}, ["tuner: 3 is not allowed; give a dict"]),
        ({"tuner.depth": 9}, ["tuner.depth: depth (9) is more than the text stream's 2 layers: use 1 to 2"]),
        ({"tuner.depth": 0}, ["tuner.depth: depth (0) must be at least 1"]),
        ({"protocol.shots": 1000}, ["protocol.shots: (1000)", "classes have fewer images", "lower protocol.shots"]),
        ({"protocol.shots": -1}, ["protocol.shots: (-1) must be at least 0"]),
        ({"dataset.style": "flatt"}, ["dataset.style: ('flatt') must be one of", "flat"]),
        ({"dataset.image_size": 224}, ["dataset.image_size: 224 pixels, but backbone.image_size is 48"]),
        ({"backbone.tokenizer": "/no/such/folder"}, ["backbone.tokenizer", "/no/such/folder"]),
        ({"custom_imports.imports": ["no_such_module"]}, ["custom_imports", "no_such_module"]),
    ],
)
def test_a_fault_is_named_with_its_mend(options: dict[str, Any], expected: list[str]) -> None:
    found = faults({**MAPLE, **options})
    assert len(found) == 1, found
    for words in expected:
        assert words in found[0]


def test_a_prompt_longer_than_the_context_is_found() -> None:
    (found,) = faults({**SMALL, "tuner.length": 40, "tuner.init": None}, "clip_coop")
    assert "the text tower reads at most 32" in found
    assert "shorten" in found


def test_a_missing_data_folder_is_found(tmp_path: Path) -> None:
    options = {**MAPLE, "dataset.type": "SplitZhou", "dataset.name": "EuroSAT", "dataset.root": str(tmp_path / "none")}
    del options["dataset.classes"]
    (found,) = faults({**options, "dataset.image_size": 48})
    assert found.startswith("dataset: EuroSAT: no image folder")
    assert "set dataset.root" in found


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: None, "no-weights.pt"),
        (lambda path: path.write_bytes(b"PK\x03\x04 but cut off"), "no-weights.pt"),
        (lambda path: torch.save({"layer.weight": torch.ones(2, 2)}, path), "no-weights.pt"),
    ],
)
def test_weights_that_cannot_be_loaded_are_found(tmp_path: Path, write: Any, words: str) -> None:
    path = tmp_path / "no-weights.pt"
    write(path)
    found = faults({**MAPLE, "backbone.checkpoint": str(path)})
    assert found
    assert all(fault.startswith("backbone.checkpoint: ") for fault in found)
    assert words in found[0]


def test_all_faults_come_at_once() -> None:
    wrong = {"rutime.seed": 3, "tuner.dpeth": 2, "schedule.lr": "fast", "protocol.shots": 1000}
    found = faults({**MAPLE, **wrong})
    assert sorted(fault.split(":")[0].split(".")[0] for fault in found) == ["protocol", "rutime", "schedule", "tuner"]


def test_missing_sections_are_found() -> None:
    cfg = load(CONFIGS / "_base_" / "tuners" / "maple.py")
    found = [str(fault) for fault in validate(cfg)]
    assert [fault.split(":")[0] for fault in found] == ["backbone", "head", "dataset", "schedule"]
    assert "configs/_base_/backbones" in found[0]


def test_another_tuner_takes_nothing_of_the_old_one() -> None:
    options = {**SMALL, "tuner.type": "LoRA", "tuner.rank": 8}
    cfg = load(CONFIGS / "glyphs" / "clip_maple.py", options)
    assert cfg["tuner"].to_dict() == {"type": "LoRA", "rank": 8}
    assert validate(cfg, options) == []


def test_a_file_that_is_missing_or_broken_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such config file; did you mean '.*clip_maple\.py'"):
        load(CONFIGS / "glyphs" / "clip_mapel.py")
    broken = tmp_path / "broken.py"
    broken.write_text("tuner = dict(type='MaPLe'\n")
    with pytest.raises(ConfigError, match="cannot be read: SyntaxError"):
        load(broken)


def test_nothing_is_written_for_a_config_with_faults(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        launch.train(arguments("clip_maple", tmp_path / "run", {**MAPLE, "tuner.depth": 9}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("backbone", "tuner", "options", "words"),
    [
        ("clip_vit_b61", "maple", {}, "did you mean 'clip_vit_b16'?"),
        ("clip_vit_b16", "mapel", {}, "did you mean 'maple'?"),
        ("clip_vit_b16", "maple", {"tuner.dpeth": 3}, "did you mean 'depth'?"),
        ("clip_vit_b16", "maple", {"schedule.lr": 3}, "only backbone.KEY and tuner.KEY can be set here"),
        ("clip_tiny", "maple", {}, "depth (9) is more than the text stream's 3 layers"),
    ],
)
def test_counting_what_cannot_be_is_told(backbone: str, tuner: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        count_parameters(backbone, tuner, options)


def test_counting_names_heads_that_do_not_exist_or_do_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"--head: no 'retreival'.*did you mean 'retrieval'\?"):
        count_parameters("clip_tiny", "lora", head="retreival")
    with pytest.raises(ConfigError, match="CoCoOp gives every image texts of its own"):
        count_parameters("clip_tiny", "cocoop", head="retrieval")


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (1, int, True), (True, int, False), (1.5, int, False), (1, float, True), (None, int | None, True),
        ("a", int | None, False), (["a"], tuple[str, ...], True), ([1], tuple[str, ...], False), ({}, dict, True),
        ("a", Path, False),
    ],
)  # fmt: skip
def test_values_fit_their_annotation(value: object, hint: object, expected: bool) -> None:
    assert fits(value, hint) is expected


def captioned(options: dict[str, Any], config: str = "clip_maple") -> list[Fault]:
    """The faults of retrieval on a toy data set."""
    return validate(load(CONFIGS / "glyphs" / f"{config}.py", {**RETRIEVAL, **options}))


def test_retrieval_on_captions_has_no_fault() -> None:
    assert captioned({}) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"head.type": "ClassificationHead"},
            "head: ClassificationHead needs classes, labels of each sample, but the set 'train' of ToyCaptions has "
            "images, captions, ids: take another head or data set",
        ),
        ({"dataset.image_size": 40}, "dataset.image_size: 40 pixels, but backbone.image_size is 48: make them equal"),
        ({"dataset.empty": True}, "dataset: a caption of image 'train/1.png' in the set 'train' is empty"),
        ({"schedule.batch_size": 21}, "schedule.batch_size: 21 is more than the 20 training samples: lower it"),
        ({"tuner.length": 30, "tuner.init": None}, "tuner: 30 context tokens leave no room for a caption in 32 tokens"),
    ],
)
def test_data_and_head_that_do_not_fit_are_named(options: dict[str, Any], words: str) -> None:
    found = [str(fault) for fault in captioned(options)]
    assert found
    assert words in found[0]


def test_a_head_for_pairs_needs_pairs() -> None:
    (found,) = faults({**SMALL, "head.type": "RetrievalHead"}, "clip_lora")
    assert found.startswith("head: RetrievalHead needs captions, ids of each sample, but the set 'train' of Glyphs has")


def test_a_tuner_with_parameters_for_classes_needs_classes() -> None:
    options = {key: value for key, value in RETRIEVAL.items() if not key.startswith("tuner.")}
    (found,) = validate(load(CONFIGS / "glyphs" / "clip_linear_probe.py", options))
    assert "class" in found.problem


def test_long_captions_are_cut_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = captioned({"dataset.words": 40})
    assert not found.fatal
    assert str(found).startswith("dataset: captions longer than 32 tokens are cut, as official code does: ")
    assert "20 of 20 in train, 8 of 8 in val, 14 of 14 in test" in found.problem
    cfg = launch.checked(CONFIGS / "glyphs" / "clip_maple.py", {**RETRIEVAL, "dataset.words": 40})
    assert cfg["dataset"]["words"] == 40
    assert "warning: dataset: captions longer than 32 tokens" in capsys.readouterr().err


def test_a_head_names_its_own_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    def data_faults(self: object, model: object, part: str, dataset: Sized) -> Iterator[str]:
        yield f"k_test (900) is more than the {len(dataset)} samples of {part}"

    monkeypatch.setattr(RetrievalHead, "data_faults", data_faults)
    found = [str(fault) for fault in captioned({})]
    counts = {"train": 20, "val": 4, "test": 7}
    assert found == [f"head.k_test: k_test (900) is more than the {n} samples of {name}" for name, n in counts.items()]
