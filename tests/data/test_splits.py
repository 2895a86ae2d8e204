"""Split files, halves and shots, and the two splits of Glyphs that ship."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petl_zoo.data import Glyphs, Item
from petl_zoo.data.classification import few_shot, halves, read_split
from petl_zoo.data.glyphs import STYLES, concept_index, concepts
from petl_zoo.data.glyphs.atlas import FOLDER
from tools.build_glyphs import split_concepts, split_subgroups

GOOD = {
    "train": [["a/1.jpg", 0, "ant"], ["b/1.jpg", 1, "bee"]],
    "val": [["a/2.jpg", 0, "ant"], ["b/2.jpg", 1, "bee"]],
    "test": [["a/3.jpg", 0, "ant"], ["b/3.jpg", 1, "bee"]],
}
ITEMS = [Item(f"{label}/{number}.jpg", label, f"class {label}") for label in range(5) for number in range(20)]
NAMES = {label: f"class {label}" for label in range(5)}


def changed(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    data = json.loads(json.dumps(GOOD))
    change(data)
    return data


class TestReadSplit:
    def test_rows_and_hash(self, tmp_path: Path) -> None:
        path = tmp_path / "split.json"
        path.write_text(json.dumps(GOOD))
        items, digest = read_split(path)
        assert items["val"] == (Item("a/2.jpg", 0, "ant"), Item("b/2.jpg", 1, "bee"))
        path.write_text(json.dumps(GOOD) + "\n")
        assert read_split(path) == (items, read_split(path)[1])
        assert read_split(path)[1] != digest

    @pytest.mark.parametrize(
        ("data", "problem"),
        [
            ([], "must be an object whose 'train' is a list"),
            (changed(lambda d: d.pop("val")), "must be an object whose 'val' is a list"),
            (changed(lambda d: d.update(test=[])), "'test' is a list .* not empty"),
            (changed(lambda d: d["train"][1].pop()), r"train\[1\] is \['b/1.jpg', 1\] and must be"),
            (changed(lambda d: d["train"].append("b")), r"train\[2\] is 'b' and must be"),
            (changed(lambda d: d["test"].append(["c", "2", "cat"])), r"test\[2\] is \['c', '2', 'cat'\]"),
            (changed(lambda d: d["test"].append(["c", 1.5, "cat"])), r"test\[2\] is \['c', 1.5, 'cat'\]"),
            (changed(lambda d: d["train"].append(["c", 3, "cat"])), "labels must be 0 to 2, but 2 do not occur"),
            (changed(lambda d: d["train"].append(["c", -1, "cat"])), "labels must be 0 to 2, but 2 do not occur"),
            (changed(lambda d: d["test"].append(["c", 1, "cat"])), "label 1 is named both 'bee' and 'cat'"),
            (changed(lambda d: d["test"].append(["a/1.jpg", 0, "ant"])), "'a/1.jpg' is in train and in test"),
        ],
    )
    def test_a_faulty_file_is_told_with_its_path_and_a_mend(self, tmp_path: Path, data: Any, problem: str) -> None:
        path = tmp_path / "split.json"
        path.write_text(json.dumps(data))
        with pytest.raises(ValueError, match=problem) as caught:
            read_split(path)
        assert str(path) in str(caught.value)
        assert "download it again" in str(caught.value)

    @pytest.mark.parametrize("content", [b"", b'{"train": [', b"\xff\xfe"])
    def test_no_json_is_told(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "split.json"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"is no JSON .*download it again") as caught:
            read_split(path)
        assert str(path) in str(caught.value)

    def test_a_missing_file_is_told(self, tmp_path: Path) -> None:
        path = tmp_path / "split.json"
        with pytest.raises(ValueError, match=r"cannot be read \(No such file.*download CoOp's split file") as caught:
            read_split(path)
        assert str(path) in str(caught.value)


class TestHalves:
    def test_the_first_half_is_the_larger(self) -> None:
        base, new = halves(range(37))
        assert base == list(range(19))
        assert new == list(range(19, 37))

    def test_labels_are_sorted_and_may_have_gaps(self) -> None:
        assert halves([7, 3, 40, 3, 0]) == ([0, 3], [7, 40])


class TestFewShot:
    def test_so_many_of_each_class_and_none_twice(self) -> None:
        drawn = few_shot(ITEMS, 4, 0, names=NAMES)
        assert Counter(item.label for item in drawn) == dict.fromkeys(range(5), 4)
        assert len(set(drawn)) == 20

    def test_a_seed_decides_them_whatever_the_order(self) -> None:
        shuffled = random.Random(0).sample(ITEMS, len(ITEMS))
        assert few_shot(ITEMS, 4, 1, names=NAMES) == few_shot(shuffled, 4, 1, names=NAMES)
        assert few_shot(ITEMS, 4, 1, names=NAMES) != few_shot(ITEMS, 4, 2, names=NAMES)

    def test_fewer_shots_are_among_more(self) -> None:
        assert set(few_shot(ITEMS, 2, 3, names=NAMES)) < set(few_shot(ITEMS, 8, 3, names=NAMES))

    def test_every_image_is_drawn_by_some_seed(self) -> None:
        assert {item for seed in range(30) for item in few_shot(ITEMS, 4, seed, names=NAMES)} == set(ITEMS)

    def test_too_many_shots_list_the_classes(self) -> None:
        few = [item for item in ITEMS if item.label != 4 and (item.label != 2 or "/1" not in item.path)]
        with pytest.raises(ValueError, match="shots") as caught:
            few_shot(few, 16, 0, names=NAMES)
        message = str(caught.value)
        assert "protocol.shots (16): 2 of 5 classes have fewer images: class 2 (9), class 4 (0)" in message
        assert "take a data set that has images of each class" in message
        many = {label: f"class {label}" for label in range(25)}
        with pytest.raises(ValueError, match=r"25 of 25 .*, class 19 \(0\) and 5 more; take"):
            few_shot([], 1, 0, names=many)
        with pytest.raises(ValueError, match=r"lower protocol\.val_shots to at most 20"):
            few_shot(ITEMS, 21, 0, names=NAMES, option="protocol.val_shots")


class TestShippedSplits:
    @pytest.mark.parametrize("classes", ["concepts", "subgroups"])
    def test_the_tool_makes_the_file_from_the_metadata(self, classes: str) -> None:
        made = {"concepts": split_concepts, "subgroups": split_subgroups}[classes](list(concepts()))
        rows = {part: tuple(Item(*row) for row in part_rows) for part, part_rows in made.items()}
        assert rows == read_split(FOLDER / f"split_{classes}.json")[0]

    @pytest.mark.parametrize(
        ("classes", "count", "each"),
        [
            ("concepts", 80, {"train": 16, "val": 4, "test": 12}),
            ("subgroups", 41, {"train": 32, "val": 8, "test": 20}),
        ],
    )
    def test_sizes(self, classes: str, count: int, each: dict[str, int]) -> None:
        for part, rows in Glyphs(classes=classes).items.items():
            assert Counter(row.label for row in rows) == dict.fromkeys(range(count), each[part])

    @pytest.mark.parametrize("classes", ["concepts", "subgroups"])
    def test_labels_name_what_the_paths_show(self, classes: str) -> None:
        for rows in Glyphs(classes=classes).items.values():
            for row in rows:
                concept = concepts()[concept_index()[row.path.split("/")[1]]]
                assert row.name == (concept.name if classes == "concepts" else concept.kind)

    @pytest.mark.parametrize("classes", ["concepts", "subgroups"])
    def test_the_halves_are_equally_unfamiliar_to_the_shipped_backbones(self, classes: str) -> None:
        source = Glyphs(classes=classes)
        known = {c.name if classes == "concepts" else c.kind for c in concepts() if c.pretrain}
        unseen = [sum(source.names[label] not in known for label in half) for half in halves(source.names)]
        assert sum(unseen) == (16 if classes == "concepts" else 3)
        assert abs(unseen[0] - unseen[1]) <= 1

    def test_a_name_that_finds_another_thing_is_in_no_split(self) -> None:
        for classes in ("concepts", "subgroups"):
            paths = {row.path.split("/")[1] for rows in Glyphs(classes=classes).items.values() for row in rows}
            assert "cricket" not in paths

    @pytest.mark.parametrize("style", STYLES)
    def test_a_style_moves_the_paths_and_keeps_the_labels(self, style: str) -> None:
        flat, other = Glyphs(), Glyphs(style=style)
        assert other.items["test"]
        assert other.names.items() <= flat.names.items()
        assert all(row.path.startswith(f"{style}/") for rows in other.items.values() for row in rows)
        assert (other.hash == flat.hash) == (style == "flat")

    @pytest.mark.parametrize(("key", "value"), [("classes", "groups"), ("style", "openmoji")])
    def test_unknown_options_are_told(self, key: str, value: str) -> None:
        option: dict[str, Any] = {key: value}
        with pytest.raises(ValueError, match=rf"dataset.{key} \('{value}'\) must be one of"):
            Glyphs(**option)
