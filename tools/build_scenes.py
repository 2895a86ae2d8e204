"""Draw up the embedded scenes: which objects, where, on what background, and what their captions say.

    python tools/build_scenes.py                                  # writes petl_zoo/data/glyphs/scenes_*.json
    python tools/build_scenes.py --sheet docs/images/scenes.png   # a picture of the scenes that are there

It writes the same bytes every time.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import textwrap
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from petl_zoo.data.glyphs import MEAN, STD, concepts
from petl_zoo.data.glyphs.atlas import FOLDER
from petl_zoo.data.glyphs.compose import colours_for
from petl_zoo.data.glyphs.grammar import COUNTS, NUM_PHRASES, RELATIONS, Scene, tell
from petl_zoo.data.glyphs.scenes import GlyphScenes, scene_concepts

SIZES = {"train": 2000, "val": 200, "test": 400}  # scenes
TWINS = 0.5  # share of the scenes whose twin is in the same part
COUNTED = 0.3  # share of the scenes that are about counts
CAPTIONS, COLOURED = 5, 2  # captions a scene, and how many of them tell the background's colour


class Draw:
    """Random choices; only ``random.Random.random`` is sure to give the same numbers in every release of Python."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed).random

    def one(self, values: Any) -> Any:
        return values[int(self.random() * len(values))]

    def some(self, values: Any, count: int) -> list[Any]:
        """``count`` different ones, in random order."""
        left = list(values)
        return [left.pop(int(self.random() * len(left))) for _ in range(count)]


def drawn_up(style: str = "flat", seed: int = 0) -> dict[str, list[Scene]]:
    """The scenes of each part; twins follow each other."""
    draw, met, number = Draw(seed), set(), 0
    parts: dict[str, list[Scene]] = {part: [] for part in SIZES}
    for part, size in SIZES.items():
        while len(parts[part]) < size:
            kind = draw.one(COUNTS) if draw.random() < COUNTED else draw.one(RELATIONS)
            a, b = draw.some(scene_concepts(), 2)
            colours = colours_for(a, b)
            if frozenset((a, b)) in met or not colours:
                continue
            met.add(frozenset((a, b)))
            scene = Scene(style, kind, concepts()[a].id, concepts()[b].id, draw.one(colours), number)
            number += 1
            parts[part] += [scene, scene.twin] if len(parts[part]) < size * TWINS else [scene]
    return parts


def captions(scene: Scene) -> list[str]:
    """Five sentences; twins have the same number and so the same phrases."""
    draw = Draw(scene.number)
    phrases = draw.some(range(NUM_PHRASES), CAPTIONS)
    coloured = draw.some(range(CAPTIONS), COLOURED)
    return [tell(scene, phrase, colour=place in coloured) for place, phrase in enumerate(phrases)]


def rows(scenes: list[Scene]) -> list[dict[str, Any]]:
    """The annotations of a part; paths begin below the style."""
    return [
        {"image": scene.path.partition("/")[2], "caption": captions(scene), "image_id": str(index)}
        for index, scene in enumerate(scenes)
    ]


def contact_sheet(columns: int = 6, lines: int = 4, side: int = 96) -> Image.Image:
    """Some test scenes with a caption each, twins side by side."""
    width, height = side + 24, side + 52
    canvas = Image.new("RGB", (columns * width, lines * height), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(10)
    data = GlyphScenes(image_size=side)
    shown = columns * lines
    items = [*data.items["test"][: shown // 2], *data.items["test"][-shown // 2 :]]
    pixels = data.reader(augment=False)([item.image for item in items]) * STD + MEAN
    for place, (item, image) in enumerate(zip(items, pixels, strict=True)):
        left, top = place % columns * width, place // columns * height
        picture = Image.fromarray((image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())
        canvas.paste(picture, (left + 12, top + 2))
        text = textwrap.fill(item.captions[place % CAPTIONS], 24)
        pen.multiline_text(
            (left + width / 2, top + side + 4), text, "black", font, anchor="ma", align="center", spacing=1
        )
    return canvas


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write to (default: %(default)s)")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="draw a contact sheet instead of building")
    args = parser.parse_args()
    if args.sheet:
        args.sheet.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet().quantize(128).save(args.sheet, optimize=True)
        return 0
    for part, scenes in drawn_up().items():
        path = args.out / f"scenes_{part}.json"
        path.write_text(json.dumps(rows(scenes), separators=(",", ":")) + "\n")
        print(f"{path.name}: {len(scenes)} scenes, {path.stat().st_size / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
