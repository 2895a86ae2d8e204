"""Captioned data sets on disk: BLIP's, ALBEF's and Karpathy's annotation files, cleaning, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from petl_zoo.data import Retrieval, collate
from petl_zoo.data.retrieval import KarpathyCaptions, clean_albef, clean_blip
from registry import DATASETS

IMAGES = {
    "train": ["train2014/a.jpg", "val2014/b.jpg", "train2014/c.jpg"],
    "val": ["val2014/d.jpg"],
    "test": ["val2014/e.jpg", "val2014/f.jpg"],
}
Edit = Callable[[Any], None]


def captions(image: str) -> list[str]:
    """Two or three, with capitals and signs, as annotators wrote them."""
    name = Path(image).stem
    return [f"A photo of {name.upper()}.", f"The {name}, again!"] + ["Third (one)"] * (name in "be")


def cleaned(image: str) -> tuple[str, ...]:
    name = Path(image).stem
    return (f"a photo of {name}", f"the {name}, again", *["third one"] * (name in "be"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The same data in each layout."""
    for paths in IMAGES.values():
        for number, image in enumerate(paths):
            (tmp_path / image).parent.mkdir(exist_ok=True)
            Image.new("RGB", (40, 30), (60 * number, 99, 99)).save(tmp_path / image)
    rows = {
        "train": [
            {"image": image, "caption": text, "image_id": f"coco_{number}"}
            for number, image in enumerate(IMAGES["train"])
            for text in captions(image)
        ]
    }
    # As in the published files, where an image's rows are not next to each other.
    rows["train"].sort(key=lambda row: row["caption"] != "Third (one)")
    for part in ("val", "test"):
        rows[part] = [{"image": image, "caption": captions(image)} for image in IMAGES[part]]
    for part, content in rows.items():
        (tmp_path / f"coco_karpathy_{part}.json").write_text(json.dumps(content))
    splits = {"train2014/a.jpg": "train", "val2014/b.jpg": "restval", "train2014/c.jpg": "train"}
    own = [
        {
            "filepath": image.split("/")[0],
            "filename": image.split("/")[1],
            "split": splits.get(image, part),
            "sentences": [{"raw": text, "tokens": []} for text in captions(image)],
            "cocoid": 100 * place + number,
        }
        for place, (part, paths) in enumerate(IMAGES.items())
        for number, image in enumerate(paths)
    ]
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": own, "dataset": "coco"}))
    return tmp_path


def blip(root: Path, **options: Any) -> KarpathyCaptions:
    return KarpathyCaptions(
        **{"name": "COCO", "root": str(root), "annotations": "coco_karpathy_{part}.json", "image_size": 8} | options
    )


def karpathy(root: Path, **options: Any) -> KarpathyCaptions:
    return blip(root, **{"annotations": "dataset_coco.json", "layout": "karpathy"} | options)


class TestLayouts:
    @pytest.mark.parametrize("make", [blip, karpathy])
    def test_every_part_has_its_images_and_cleaned_captions(
        self, root: Path, make: Callable[[Path], KarpathyCaptions]
    ) -> None:
        source = make(root)
        for part, images in IMAGES.items():
            found = {item.image: item.captions for item in source.items[part]}
            assert {image: sorted(texts) for image, texts in found.items()} == {
                image: sorted(cleaned(image)) for image in images
            }

    def test_ids_are_those_of_the_annotations(self, root: Path) -> None:
        assert {item.image_id for item in blip(root).items["train"]} == {"coco_0", "coco_1", "coco_2"}
        assert [item.image_id for item in blip(root).items["test"]] == IMAGES["test"]
        assert [item.image_id for item in karpathy(root).items["test"]] == ["200", "201"]

    def test_flickrs_images_have_no_folder_of_their_own(self, root: Path) -> None:
        path = root / "dataset_flickr30k.json"
        content = json.loads((root / "dataset_coco.json").read_text())
        content["images"] = [entry for entry in content["images"] if entry.pop("filepath") == "val2014"]
        for entry, split in zip(content["images"], ("train", "val", "test", "test"), strict=True):
            entry |= {"split": split, "imgid": entry.pop("cocoid")}
        path.write_text(json.dumps(content))
        source = karpathy(root, name="Flickr30K", annotations=path.name, images="val2014")
        assert [item.image for item in source.items["test"]] == ["e.jpg", "f.jpg"]
        assert source.gallery("test")[0]["images"].shape == (3, 8, 8)

    def test_a_retrieval_protocol_gets_pairs_and_galleries(self, root: Path) -> None:
        parts = Retrieval().split(blip(root), seed=1)
        train = collate(parts.train.__getitems__(range(len(parts.train))))
        assert train["images"].shape == (7, 3, 8, 8)
        assert len(set(train["captions"])) == 7
        by_id = dict(zip(train["captions"], train["ids"].tolist(), strict=True))
        assert by_id["third one"] == by_id["a photo of b"] != by_id["a photo of a"]
        test = collate(parts.test["test"].__getitems__(range(2)))
        assert test["index"].tolist() == [0, 1]
        assert test["gallery"].captions == (*cleaned("e.jpg"), *cleaned("f.jpg"))
        assert test["gallery"].image_of == (0, 0, 0, 1, 1)

    def test_albef_cleans_otherwise_and_beit3_not_at_all(self, root: Path) -> None:
        first = {key: blip(root, cleaning=key).items["test"][0].captions[1] for key in ("blip", "albef", "none")}
        assert first == {"blip": "the e, again", "albef": "the e again", "none": "The e, again!"}

    def test_the_hash_changes_with_what_decides_the_data(self, root: Path) -> None:
        changes = ({}, {"image_size": 16}, {"statistics": "inception"}, {"cleaning": "none"}, {"max_words": 3})
        hashes = [blip(root, **change).hash for change in changes]
        assert len(set(hashes)) == len(changes)
        assert blip(root).hash == hashes[0]
        path = root / "coco_karpathy_val.json"
        path.write_text(path.read_text() + " ")
        assert blip(root).hash not in hashes


class TestCleaning:
    def test_blip(self) -> None:
        text = "A  man's \"dog\" (brown); it's #1: *very* ~nice!  Isn't it, you-know?"
        assert clean_blip(text, 30) == "a man's dog brown it's 1 very nice isn't it, you-know?"
        assert clean_blip("\n one.two \n", 30) == "one two"

    def test_albef(self) -> None:
        text = "A  man's \"dog\"; Isn't it, you-know? and/or <person>."
        assert clean_albef(text, 30) == "a mans dog isnt it you know and or person"

    def test_no_more_words_than_asked(self) -> None:
        assert clean_blip(" ".join("abcdef"), 3) == "a b c"
        assert clean_albef(" ".join("abcdef"), 3) == "a b c"


class TestFaults:
    @staticmethod
    def edited(root: Path, name: str, edit: Edit) -> str:
        """Change an annotation file; its path as messages show it."""
        content = json.loads((root / name).read_text())
        edit(content)
        (root / name).write_text(json.dumps(content))
        return str(root / name)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"layout": "coco"}, r"dataset\.layout \('coco'\) must be one of blip, karpathy"),
            ({"statistics": "mean"}, r"dataset\.statistics \('mean'\) must be one of clip, inception"),
            ({"cleaning": None}, r"dataset\.cleaning \(None\) must be one of blip, albef, none"),
            ({"max_words": 0}, r"dataset\.max_words \(0\) must be at least 1"),
            ({"annotations": "coco.json"}, r"dataset\.annotations \('coco\.json'\) must hold \{part\}"),
            ({"layout": "karpathy"}, r"must be one file, without \{part\}, in layout 'karpathy'"),
        ],
    )
    def test_an_option(self, root: Path, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            blip(root, **options)

    def test_strength_of_the_augmentation(self, root: Path) -> None:
        with pytest.raises(ValueError, match=r"dataset\.magnitude \(11\) must be 0 to 10"):
            blip(root, magnitude=11).pairs("train")

    @pytest.mark.parametrize("part", ["train", "val", "test"])
    def test_a_missing_file(self, root: Path, part: str) -> None:
        path = root / f"coco_karpathy_{part}.json"
        path.unlink()
        with pytest.raises(ValueError, match=r"cannot be read \(No such file.*dataset\.root") as caught:
            blip(root)
        assert str(path) in str(caught.value)

    @pytest.mark.parametrize("content", ["", "[{", "\x80"])
    def test_a_broken_file(self, root: Path, content: str) -> None:
        (root / "coco_karpathy_val.json").write_text(content, encoding="latin-1")
        with pytest.raises(ValueError, match=r"coco_karpathy_val\.json is no JSON .*download it again"):
            blip(root)

    @pytest.mark.parametrize(
        ("make", "options"),
        [(blip, {"layout": "karpathy", "annotations": "coco_karpathy_test.json"}),
         (blip, {"annotations": "{part}.json"})],
    )  # fmt: skip
    def test_a_file_of_the_other_layout(
        self, root: Path, make: Callable[..., KarpathyCaptions], options: dict[str, Any]
    ) -> None:
        for part in IMAGES:
            (root / f"{part}.json").write_text((root / "dataset_coco.json").read_text())
        with pytest.raises(ValueError, match=r"\.json: it must be .*is dataset\.layout right"):
            make(root, **options)

    def test_a_row_without_a_caption(self, root: Path) -> None:
        path = self.edited(root, "coco_karpathy_test.json", lambda rows: rows[1].pop("caption"))
        with pytest.raises(ValueError, match=r"\[1\] is \{'image': 'val2014/f\.jpg'\} and must have") as caught:
            blip(root)
        assert path in str(caught.value)

    @pytest.mark.parametrize("text", ["", "  ", "...", "\n"])
    def test_an_empty_caption(self, root: Path, text: str) -> None:
        path = self.edited(root, "coco_karpathy_test.json", lambda rows: rows[1]["caption"].append(text))
        with pytest.raises(ValueError, match=r"\[1\]: image 'val2014/f\.jpg' has the caption .* no word") as caught:
            blip(root)
        assert path in str(caught.value)

    def test_an_image_without_captions(self, root: Path) -> None:
        self.edited(root, "dataset_coco.json", lambda data: data["images"][4].update(sentences=[]))
        with pytest.raises(ValueError, match=r"images\[4\]: image 'val2014/e\.jpg' has no caption"):
            karpathy(root)

    def test_an_image_twice(self, root: Path) -> None:
        self.edited(root, "coco_karpathy_test.json", lambda rows: rows.append(rows[0]))
        with pytest.raises(ValueError, match=r"\[2\]: image 'val2014/e\.jpg' occurs twice"):
            blip(root)

    def test_an_id_of_two_images(self, root: Path) -> None:
        self.edited(root, "dataset_coco.json", lambda data: data["images"][5].update(cocoid=200))
        with pytest.raises(ValueError, match=r"image id '200' is that of 'val2014/e\.jpg' and of 'val2014/f\.jpg'"):
            karpathy(root)

    def test_an_image_of_two_ids(self, root: Path) -> None:
        self.edited(root, "coco_karpathy_train.json", lambda rows: rows[-1].update(image_id="coco_9"))
        with pytest.raises(ValueError, match=r"image 'train2014/c\.jpg' has the ids 'coco_2' and 'coco_9'"):
            blip(root)

    def test_an_image_in_two_parts(self, root: Path) -> None:
        self.edited(root, "coco_karpathy_test.json", lambda rows: rows[0].update(image="val2014/b.jpg"))
        with pytest.raises(ValueError, match=r"image 'val2014/b\.jpg' is in train and in test"):
            blip(root)

    def test_an_unknown_split(self, root: Path) -> None:
        self.edited(root, "dataset_coco.json", lambda data: data["images"][0].update(split="extra"))
        with pytest.raises(
            ValueError, match=r"images\[0\]\.split \('extra'\) must be one of train, val, test, restval"
        ):
            karpathy(root)

    def test_a_part_without_images(self, root: Path) -> None:
        self.edited(root, "dataset_coco.json", lambda data: data["images"].pop(3))
        with pytest.raises(ValueError, match="there is no image of this part"):
            karpathy(root)

    def test_images_that_lie_elsewhere_are_told_at_once(self, root: Path) -> None:
        with pytest.raises(ValueError, match=r"unpack the images there, or set dataset\.root") as caught:
            blip(root, images="images")
        assert str(root / "images" / "val2014" / "b.jpg") in str(caught.value)

    @pytest.mark.parametrize("content", [b"", b"no image", "truncated"])
    def test_an_image_that_cannot_be_decoded(self, root: Path, content: bytes | str) -> None:
        source, path = blip(root), root / "val2014" / "f.jpg"
        path.write_bytes(content if isinstance(content, bytes) else path.read_bytes()[:300])
        with pytest.raises(ValueError, match=r"cannot be read .*: replace the file") as caught:
            source.gallery("test")[1]
        assert str(path) in str(caught.value)


class TestImages:
    def test_options_reach_the_reader(self, root: Path) -> None:
        clip, half = (blip(root, statistics=name).gallery("test")[1]["images"] for name in ("clip", "inception"))
        mean, std = (torch.tensor(v)[:, None, None] for v in
                     ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)))  # fmt: skip
        torch.testing.assert_close(clip * std + mean, half * 0.5 + 0.5, rtol=0, atol=1e-6)
        policy = blip(root, magnitude=7).reader(augment=True).policy
        assert policy.magnitude == 7


@pytest.mark.parametrize("name", ["coco", "flickr30k"])
def test_the_base_configs_name_the_published_files(name: str) -> None:
    from mmengine.config import Config

    path = Path(__file__).parents[2] / "configs" / "_base_" / "datasets" / f"{name}.py"
    options = dict(Config.fromfile(path)["dataset"])
    assert DATASETS.get(options.pop("type")) is KarpathyCaptions
    published = {"coco": "coco_karpathy_{part}.json", "flickr30k": "flickr30k_{part}.json"}
    assert options["annotations"] == published[name]
    with pytest.raises(ValueError, match=r"annotations .*_train\.json cannot be read"):
        KarpathyCaptions(**options | {"root": "missing"})
