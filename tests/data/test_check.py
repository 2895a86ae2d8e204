"""What the data check says of complete, incomplete and shipped data sets, and how its tool exits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from petl_zoo.data import check as module
from petl_zoo.data.check import CAPTIONS, IMAGES, Finding, check
from petl_zoo.data.classification import LAYOUTS
from tools.check_data import run

SPLIT = {
    "train": [["a/0.png", 0, "a"], ["b/0.png", 1, "b"]],
    "val": [["a/1.png", 0, "a"]],
    "test": [["a/2.png", 0, "a"], ["b/2.png", 1, "b"]],
}


def draw(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2)).save(path)


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings}


@pytest.fixture
def dtd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A complete data set, as small as this module believes the published one to be."""
    monkeypatch.setitem(module.IMAGES, "DTD", (2, 1, 2))
    for rows in SPLIT.values():
        for path, *_ in rows:
            draw(tmp_path / "dtd" / "images" / path)
    (tmp_path / "dtd" / "split_zhou_DescribableTextures.json").write_text(json.dumps(SPLIT))
    return {"type": "SplitZhou", "name": "DTD", "root": str(tmp_path)}


@pytest.fixture
def flickr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setitem(module.IMAGES, "Flickr30K", (2, 1, 1))
    monkeypatch.setitem(module.CAPTIONS, "Flickr30K", (2, 2, 2))
    for part, names in {"train": "ab", "val": "c", "test": "d"}.items():
        rows = [{"image": f"flickr30k-images/{name}.jpg", "caption": ["One.", "Two."]} for name in names]
        if part == "train":
            rows = [row | {"caption": "One.", "image_id": row["image"]} for row in rows]
        (tmp_path / f"flickr30k_{part}.json").write_text(json.dumps(rows))
        for name in names:
            draw(tmp_path / "flickr30k-images" / f"{name}.jpg")
    return {
        "type": "KarpathyCaptions",
        "name": "Flickr30K",
        "root": str(tmp_path),
        "annotations": "flickr30k_{part}.json",
    }


class TestComplete:
    def test_a_classification_set(self, dtd: dict[str, Any]) -> None:
        found = by_name(check(dtd))
        assert [finding.good for finding in found.values()] == [True] * 6
        assert found["test images"].detail == "2"
        assert found["image files"].detail == "all 5"

    def test_a_captioned_set(self, flickr: dict[str, Any]) -> None:
        findings = check(flickr)
        assert [finding.good for finding in findings] == [True] * 11
        assert by_name(findings)["val captions"].detail == "2"
        assert [finding.what for finding in findings].count("annotations") == 3

    def test_what_ships(self) -> None:
        found = by_name(check({"type": "GlyphScenes"}))
        assert all(finding.good is not False for finding in found.values())
        assert int(found["test captions"].detail.replace(",", "")) == 5 * int(
            found["test images"].detail.replace(",", "")
        )
        assert "t2i_r1 " in found["test recall from colour and count alone, %"].detail
        assert by_name(check({"type": "Glyphs", "style": "flat"}))["train images"].detail == "1,280"
        assert [finding.what for finding in check({"type": "GlyphPairs", "length": 8})] == ["data"]


class TestIncomplete:
    def test_nothing_there(self, tmp_path: Path) -> None:
        found = by_name(check({"type": "SplitZhou", "name": "EuroSAT", "root": str(tmp_path)}))
        assert [finding.good for finding in found.values()] == [False, False]
        assert found["split file"].detail == f"missing: {tmp_path / 'eurosat' / 'split_zhou_EuroSAT.json'}"
        assert found["image folder"].detail == f"missing: {tmp_path / 'eurosat' / '2750'}"

    def test_missing_annotations_are_told_each(self, flickr: dict[str, Any]) -> None:
        for part in ("train", "test"):
            Path(flickr["root"], f"flickr30k_{part}.json").unlink()
        missing = [finding.detail for finding in check(flickr) if finding.good is False]
        assert missing == [f"missing: {Path(flickr['root'], f'flickr30k_{part}.json')}" for part in ("train", "test")]

    def test_missing_images_are_counted_and_the_first_named(self, dtd: dict[str, Any]) -> None:
        folder = Path(dtd["root"], "dtd", "images")
        for name in ("a/2.png", "b/2.png"):
            (folder / name).unlink()
        finding = by_name(check(dtd))["image files"]
        assert finding == Finding("image files", False, f"2 of 5 missing, the first: {folder / 'a' / '2.png'}")

    def test_counts_that_differ_from_the_published(
        self, flickr: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(module.CAPTIONS, "Flickr30K", (2, 2, 5000))
        wrong = [finding for finding in check(flickr) if finding.good is False]
        assert wrong == [Finding("test captions", False, "2, but the published split has 5,000")]

    def test_a_set_without_published_counts(self, flickr: dict[str, Any]) -> None:
        found = by_name(check(flickr | {"name": "Mine"}))
        assert found["test images"] == Finding("test images", None, "1")

    def test_a_damaged_file(self, dtd: dict[str, Any], flickr: dict[str, Any]) -> None:
        Path(dtd["root"], "dtd", "split_zhou_DescribableTextures.json").write_text("{")
        Path(flickr["root"], "flickr30k_val.json").write_text("[]")
        assert "is no JSON" in by_name(check(dtd))["split file"].detail
        assert "there is no image of this part" in by_name(check(flickr))["annotations"].detail

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"type": "Split"}, r"dataset\.type \('Split'\) is no data set"),
            ({"name": "dtd"}, r"dataset\.name \('dtd'\) must be one of"),
            ({"style": "flat"}, r"unexpected keyword argument 'style'"),
        ],
    )
    def test_options(self, dtd: dict[str, Any], change: dict[str, str], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            check(dtd | change)


class TestTool:
    def test_a_complete_set(self, dtd: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["dtd", "--cfg-options", f"dataset.root={dtd['root']}"]) == 0
        assert "all 5" in capsys.readouterr().out

    def test_an_incomplete_set_that_is_named(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["coco", "--cfg-options", f"dataset.root={tmp_path}"]) == 1
        out = capsys.readouterr().out
        for part in ("train", "val", "test"):
            assert f"missing: {tmp_path / f'coco_karpathy_{part}.json'}" in out

    def test_all_sets_are_listed_without_a_verdict(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)  # where no data set lies
        assert run([]) == 0
        out = capsys.readouterr().out
        configs = Path(__file__).parents[2] / "configs" / "_base_" / "datasets"
        for path in configs.glob("*.py"):
            assert f" {path.stem} " in out
        assert str(tmp_path / "data" / "flickr30k" / "flickr30k_test.json") in out

    def test_an_unknown_name(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["cocos"]) == 2
        assert "there is no such config file" in capsys.readouterr().err


def test_published_counts_fit_together() -> None:
    """Against totals that are published elsewhere: all of COCO's captions, 2014, and Flickr's."""
    assert sum(CAPTIONS["COCO"]) == 414113 + 202654
    assert sum(IMAGES["COCO"]) == 82783 + 40504
    assert CAPTIONS["COCO"][2] == 25010
    assert IMAGES["COCO"][2] == 5000
    assert sum(IMAGES["Flickr30K"]) == 31014
    assert CAPTIONS["Flickr30K"] == tuple(5 * images for images in IMAGES["Flickr30K"])
    assert set(LAYOUTS) | {"COCO", "Flickr30K"} == set(IMAGES)
    assert {"DTD": sum(IMAGES["DTD"]), "EuroSAT": sum(IMAGES["EuroSAT"]), "Food101": sum(IMAGES["Food101"])} == {
        "DTD": 47 * 120, "EuroSAT": 27000, "Food101": 101000,
    }  # fmt: skip
