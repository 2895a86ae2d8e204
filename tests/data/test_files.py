"""Data sets on disk in CoOp's layout: what is read, and what is said where it cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as v1
from torchvision.transforms import InterpolationMode

from petl_zoo.data import BaseToNew, FewShot, Images, SplitZhou, collate
from petl_zoo.data.classification import LAYOUTS
from petl_zoo.data.transforms import CLIP_MEAN, CLIP_STD, FileReader

SIZES = {"train": (50, 40), "val": (40, 64), "test": (61, 47)}  # width, height


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """DTD with five classes of four training, two validation and two test images."""
    generator = np.random.default_rng(0)
    split: dict[str, list[tuple[str, int, str]]] = {}
    for part, (width, height) in SIZES.items():
        rows = split.setdefault(part, [])
        for label, name in enumerate(("banded", "dotted", "grid", "lined", "woven_mat")):
            for number in range(4 if part == "train" else 2):
                path = tmp_path / "dtd" / "images" / name / f"{part}_{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                noise = generator.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
                Image.fromarray(noise).resize((width, height), Image.Resampling.BILINEAR).save(path)
                rows.append((f"{name}/{path.name}", label, name))
    (tmp_path / "dtd" / "split_zhou_DescribableTextures.json").write_text(json.dumps(split))
    return tmp_path


def by_hand(*crop: torch.nn.Module) -> v1.Compose:
    return v1.Compose([*crop, v1.ToTensor(), v1.Normalize(CLIP_MEAN, CLIP_STD)])


def image_of(root: Path, path: str) -> Image.Image:
    return Image.open(root / "dtd" / "images" / path).convert("RGB")


class TestReading:
    def test_the_statistics_are_clips(self) -> None:
        assert CLIP_MEAN == (0.48145466, 0.4578275, 0.40821073)
        assert CLIP_STD == (0.26862954, 0.26130258, 0.27577711)

    def test_evaluation_equals_torchvision_composed_by_hand(self, root: Path) -> None:
        source = SplitZhou(name="DTD", root=str(root), image_size=32)
        images = source.images(source.items["test"])
        expected = by_hand(v1.Resize(32, InterpolationMode.BICUBIC), v1.CenterCrop(32))
        for sample, item in zip(images.__getitems__(range(len(images))), images.items, strict=True):
            torch.testing.assert_close(sample["images"], expected(image_of(root, item.path)), rtol=0, atol=1e-6)

    def test_training_equals_torchvision_composed_by_hand(self, root: Path) -> None:
        source = SplitZhou(name="DTD", root=str(root), image_size=32)
        images = source.images(source.items["train"], augment=True)
        expected = by_hand(
            v1.RandomResizedCrop(32, scale=(0.08, 1.0), interpolation=InterpolationMode.BICUBIC),
            v1.RandomHorizontalFlip(),
        )
        torch.manual_seed(0)
        mine = [images[index]["images"] for index in range(12)]
        torch.manual_seed(0)
        theirs = [expected(image_of(root, item.path)) for item in images.items[:12]]
        torch.testing.assert_close(torch.stack(mine), torch.stack(theirs), rtol=0, atol=1e-6)
        assert not torch.allclose(images[0]["images"], images[0]["images"], atol=0.01)

    def test_a_file_of_another_colour_mode_is_read_as_rgb(self, tmp_path: Path) -> None:
        Image.new("L", (40, 40), 128).save(tmp_path / "gray.png")
        Image.new("CMYK", (40, 40)).save(tmp_path / "print.jpg")
        Image.new("RGBA", (40, 40)).save(tmp_path / "clear.png")
        read = FileReader(tmp_path, size=16, augment=False)
        assert read(["gray.png", "print.jpg", "clear.png"]).shape == (3, 3, 16, 16)

    def test_a_batch_of_a_protocol(self, root: Path) -> None:
        source = SplitZhou(name="DTD", root=str(root), image_size=32)
        parts = BaseToNew(shots=3, val_shots=2).split(source, seed=1)
        sizes = {name: len(images) for name, images in parts.test.items()}
        assert isinstance(parts.train, Images)
        assert (len(parts.train), len(parts.val or ()), sizes) == (9, 6, {"base": 6, "new": 4})
        batch = collate(parts.test["new"].__getitems__(range(4)))
        assert batch["images"].shape == (4, 3, 32, 32)
        assert batch["labels"].tolist() == [0, 0, 1, 1]
        assert batch["classes"].names == ("lined", "woven_mat")
        assert batch["classes"].templates == ("{} texture.",)

    def test_the_hash_changes_with_split_and_size(self, root: Path) -> None:
        hashes = {SplitZhou(name="DTD", root=str(root), image_size=size).hash for size in (32, 64, 32)}
        assert len(hashes) == 2
        path = root / "dtd" / "split_zhou_DescribableTextures.json"
        path.write_text(path.read_text() + "\n")
        assert SplitZhou(name="DTD", root=str(root), image_size=32).hash not in hashes


class TestFaults:
    def test_an_unknown_data_set(self, root: Path) -> None:
        with pytest.raises(ValueError, match=r"dataset.name \('dtd'\) must be one of .*DTD"):
            SplitZhou(name="dtd", root=str(root))

    def test_a_missing_image_folder(self, root: Path) -> None:
        with pytest.raises(ValueError, match=r"unpack the images there, or set dataset.root .*eurosat/") as caught:
            SplitZhou(name="EuroSAT", root=str(root))
        assert f"no image folder {root / 'eurosat' / '2750'}" in str(caught.value)

    def test_a_relative_root_is_told_in_full(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(root)
        assert SplitZhou(name="DTD", root=".").folder == root / "dtd" / "images"
        with pytest.raises(ValueError, match="no image folder") as caught:
            SplitZhou(name="SUN397", root="data")
        assert str(root / "data" / "sun397" / "SUN397") in str(caught.value)

    def test_a_missing_split_file(self, root: Path) -> None:
        path = root / "dtd" / "split_zhou_DescribableTextures.json"
        path.unlink()
        with pytest.raises(ValueError, match="download CoOp's split file") as caught:
            SplitZhou(name="DTD", root=str(root))
        assert str(path) in str(caught.value)

    def test_a_missing_image(self, root: Path) -> None:
        source = SplitZhou(name="DTD", root=str(root))
        path = root / "dtd" / "images" / source.items["test"][0].path
        path.unlink()
        with pytest.raises(ValueError, match=r"does not exist: unpack .*or set dataset\.root") as caught:
            source.images(source.items["test"])[0]
        assert str(path) in str(caught.value)

    @pytest.mark.parametrize("content", [b"", b"no image", "truncated"])
    def test_an_unreadable_image(self, root: Path, content: bytes | str) -> None:
        source = SplitZhou(name="DTD", root=str(root))
        path = root / "dtd" / "images" / source.items["test"][0].path
        path.write_bytes(content if isinstance(content, bytes) else path.read_bytes()[:400])
        with pytest.raises(ValueError, match=r"cannot be read .*: replace the file") as caught:
            source.images(source.items["test"])[0]
        assert str(path) in str(caught.value)

    def test_more_shots_than_images(self, root: Path) -> None:
        with pytest.raises(ValueError, match=r"protocol.shots \(5\): 5 of 5 classes .*banded \(4\), dotted \(4\)"):
            FewShot(shots=5).split(SplitZhou(name="DTD", root=str(root)), seed=1)
        with pytest.raises(ValueError, match=r"lower protocol.val_shots to at most 2"):
            FewShot(shots=4).split(SplitZhou(name="DTD", root=str(root)), seed=1)

    def test_a_template_without_a_place_for_the_name(self, root: Path) -> None:
        source = SplitZhou(name="DTD", root=str(root), template="a texture.")
        with pytest.raises(ValueError, match=r"template 'a texture\.' must hold '\{\}' once"):
            source.images(source.items["test"])


def test_every_layout_has_a_template_for_names() -> None:
    assert set(LAYOUTS) == {
        "Caltech101", "OxfordPets", "StanfordCars", "Flowers102", "Food101", "SUN397", "DTD", "EuroSAT", "UCF101",
    }  # fmt: skip
    assert all(layout.template.count("{}") == 1 for layout in LAYOUTS.values())
    assert len({layout.folder for layout in LAYOUTS.values()}) == len(LAYOUTS)


def test_the_documentation_names_every_layout() -> None:
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    for name, layout in LAYOUTS.items():
        assert f"| {name} | {layout.folder}/ | {layout.images or '.'}/ | {layout.split} |" in text
