"""Build the Glyphs atlas from npm packages of emoji artwork (a developer's tool).

    python tools/build_glyphs.py                        # installs the packages in a temporary folder
    python tools/build_glyphs.py --packages DIR         # uses DIR/node_modules
    python tools/build_glyphs.py --sheet FILE.png       # a picture of the atlas that is there

Building needs npm and resvg_py. It writes one sheet a style, ``glyphs.json`` and the split files to
petl_zoo/data/glyphs, the same bytes every time.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from petl_zoo.data.glyphs import MEAN, STD
from petl_zoo.data.glyphs.atlas import FOLDER, Concept
from petl_zoo.data.glyphs.dataset import GlyphReader

Row = tuple[str, int, str]
T = TypeVar("T")

SIZE = 64  # pixels of a glyph's side in the sheets
COLUMNS = 27  # glyphs in a row of a sheet

# style -> (npm package, version). The order is the order of the styles in glyphs.json.
STYLES = {
    "twemoji": ("@iconify-json/twemoji", "1.2.5"),
    "noto": ("@iconify-json/noto", "1.2.9"),
    "noto1": ("@iconify-json/noto-v1", "1.2.5"),
    "emojione": ("@iconify-json/emojione", "1.2.3"),
    "fluent": ("@iconify-json/fluent-emoji", "1.2.7"),
    "flat": ("@iconify-json/fluent-emoji-flat", "1.2.6"),
    "contrast": ("@iconify-json/fluent-emoji-high-contrast", "1.2.6"),
}
NAMES = ("emojibase-data", "17.0.0")
# A concept needs all of the first and one of the second, so that training sees three drawings.
NEEDED = {"twemoji", "noto", "flat", "contrast"}
SECOND = {"noto1", "emojione", "fluent"}

GROUPS = {"animals-nature", "food-drink", "travel-places", "activities", "objects"}
# Left out: clock faces, signs and places whose drawing is a symbol or a scene rather than one object.
SKIPPED_SUBGROUPS = {
    'time', 'sky-weather', 'transport-sign', 'warning', 'place-map', 'hotel', 'sound', 'music',
}  # fmt: skip
SKIPPED_NAMES = {"chart decreasing"}  # mirrored, it is 'chart increasing'
# Never seen in pretraining, so that adaptation to new concepts can be measured.
HELD_OUT_SUBGROUPS = {"plant-flower", "animal-bug", "musical-instrument"}

# The shipped splits. Test sets hold at most 1,000 images: a standard error of about 1.5 points, evaluated in
# seconds.
MIN_OBJECTS = 6  # of a subgroup that is a class
PER_SUBGROUP = {"train": 32, "val": 8, "test": 20}  # images
SEEN_CONCEPTS, UNSEEN_CONCEPTS = 64, 16  # classes that the shipped backbones were, and were not, pretrained on
MISDRAWN = {"cricket"}  # its name finds the bat of the game in emojione and noto1: in no split
PER_CONCEPT = {"train": 16, "val": 4, "test": 12}  # images

# Labels that name an activity or a state, or that are odd in "a photo of a ...".
RENAMED = {
    "badminton": "badminton racket",
    "bowling": "bowling ball",
    "building construction": "construction site",
    "camping": "camping site",
    "chart increasing": "line chart",
    "construction": "construction barrier",
    "cooking": "frying pan",
    "cricket game": "cricket bat",
    "ewe": "sheep",
    "field hockey": "field hockey stick",
    "flower playing cards": "flower playing card",
    "foggy": "foggy city",
    "goal net": "soccer goal",
    "ice hockey": "ice hockey stick",
    "lacrosse": "lacrosse stick",
    "link": "chain link",
    "locked": "closed lock",
    "locked with key": "lock and key",
    "locked with pen": "lock and pen",
    "mahjong red dragon": "mahjong tile",
    "mans shoe": "dress shoe",
    "night with stars": "starry night",
    "performing arts": "theater masks",
    "pick": "pickaxe",
    "ping pong": "ping pong paddle",
    "pool 8 ball": "billiard ball",
    "pouring liquid": "poured drink",
    "rescue workers helmet": "rescue helmet",
    "tennis": "tennis racket",
    "unlocked": "open lock",
    "wedding": "wedding chapel",
    "womans boot": "tall boot",
    "womans clothes": "blouse",
    "womans hat": "sun hat",
    "womans sandal": "heeled sandal",
}

# Names whose article cannot be read off their first and last letters.
SINGULAR = {"rhinoceros"}
MASS = {
    'bacon', 'bread', 'broccoli', 'bubble tea', 'butter', 'cooked rice', 'curry rice', 'dna', 'garlic',
    'ginger root', 'ice', 'lipstick', 'mount fuji', 'popcorn', 'rock', 'sake', 'salt', 'shaved ice', 'soap',
    'spaghetti', 'statue of liberty', 'sushi', 'thread', 'tokyo tower', 'wood', 'yarn',
}  # fmt: skip
VOWEL_SOUND = ("x-ray",)
CONSONANT_SOUND = ("euro", "one-", "unicorn")


def key(hexcode: str) -> str:
    """Lower-case hexcode without the presentation selector, which packages write or drop at will."""
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


def clean(label: str) -> str:
    """A label as a caption uses it: lower case, letters, digits and inner hyphens."""
    label = label.lower().replace("ñ", "n").replace("é", "e").replace("ã", "a")
    label = re.sub(r"\(.*?\)", "", re.sub("[\u2019\u201c\u201d']", "", label))
    return re.sub(r"\s+", " ", re.sub(r"[^a-z0-9 -]+", " ", label)).strip()


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-")


def article(name: str) -> str:
    """'a ', 'an ' or, for plurals and substances, nothing."""
    head = re.split(" of | with | and ", name)[0].split()[-1]
    plural = head.endswith("s") and not head.endswith(("ss", "us", "is")) and name not in SINGULAR
    if plural or name in MASS:
        return ""
    vowel = name.startswith(VOWEL_SOUND) or (name[0] in "aeiou" and not name.startswith(CONSONANT_SOUND))
    return "an " if vowel else "a "


def install(folder: Path) -> None:
    """Install the packages, at the versions pinned here, into ``folder``."""
    wanted = [f"{package}@{version}" for package, version in [*STYLES.values(), NAMES]]
    flags = ["--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder)]
    subprocess.run(["npm", "install", *flags, *wanted], check=True)


class IconSet:
    """One style's drawings, found by hexcode or, where the package has no such table, by name."""

    def __init__(self, modules: Path, package: str) -> None:
        folder = modules / package
        self.icons = json.loads((folder / "icons.json").read_text())
        chars = json.loads((folder / "chars.json").read_text()) or {}
        if package.endswith("/fluent-emoji"):  # its own table is empty; the flat package names icons alike
            chars = json.loads((modules / STYLES["flat"][0] / "chars.json").read_text())
        self.chars = {key(code): name for code, name in chars.items()} if chars else {}

    def draw(self, hexcode: str, label: str) -> np.ndarray | None:
        """RGBA image of ``SIZE`` pixels, or None where the style has no (or an empty) drawing."""
        icons, aliases = self.icons["icons"], self.icons.get("aliases", {})
        name = self.chars.get(hexcode) or slug(clean(label))
        while name in aliases:
            name = aliases[name]["parent"]
        if name not in icons:
            return None
        icon = icons[name]
        width = icon.get("width", self.icons.get("width", 16))
        height = icon.get("height", self.icons.get("height", 16))
        box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{box}" width="{width}" height="{height}" color="#222">{icon["body"]}</svg>'
        )
        import resvg_py  # only building needs it, not --sheet

        png = resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE, skip_system_fonts=True)
        image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
        pixels = np.zeros((SIZE, SIZE, 4), np.uint8)
        drawn = np.asarray(image)[:SIZE, :SIZE]
        top, left = (SIZE - drawn.shape[0]) // 2, (SIZE - drawn.shape[1]) // 2
        pixels[top : top + drawn.shape[0], left : left + drawn.shape[1]] = drawn
        return pixels if pixels[..., 3].mean() >= 8 else None


def collect(modules: Path) -> tuple[list[dict[str, Any]], dict[str, list[np.ndarray | None]]]:
    """Choose the concepts and draw each in every style.

    Returns:
        The concepts' metadata in emoji order, and for each style one image (or None) a concept.
    """
    groups = json.loads((modules / NAMES[0] / "meta" / "groups.json").read_text())
    entries = json.loads((modules / NAMES[0] / "en" / "data.json").read_text())
    sets = {style: IconSet(modules, package) for style, (package, _) in STYLES.items()}
    concepts: list[dict[str, Any]] = []
    images: dict[str, list[np.ndarray | None]] = {style: [] for style in STYLES}
    names: set[str] = set()
    for entry in sorted(entries, key=lambda entry: entry.get("order", 0)):
        if "group" not in entry or groups["groups"][str(entry["group"])] not in GROUPS:
            continue
        subgroup = groups["subgroups"][str(entry["subgroup"])]
        name = clean(entry["label"])
        if name in SKIPPED_NAMES or subgroup in SKIPPED_SUBGROUPS:
            continue
        name = RENAMED.get(name, name)
        if name in names or len(re.split("[ -]", name)) > 3:
            continue
        drawn = {style: icons.draw(key(entry["hexcode"]), entry["label"]) for style, icons in sets.items()}
        styles = [style for style in STYLES if drawn[style] is not None]
        if not set(styles) >= NEEDED or not set(styles) & SECOND:
            continue
        names.add(name)
        keywords = dict.fromkeys(filter(None, (clean(tag) for tag in entry.get("tags", []))))
        concepts.append(
            {
                "id": slug(name),
                "name": name,
                "article": article(name),
                "keywords": [word for word in keywords if word != name],
                "group": groups["groups"][str(entry["group"])],
                "subgroup": subgroup,
                "hexcode": entry["hexcode"],
                "styles": styles,
                "pretrain": subgroup not in HELD_OUT_SUBGROUPS,
            }
        )
        for style in STYLES:
            images[style].append(drawn[style])
    return concepts, images


def sheet(images: list[np.ndarray | None]) -> Image.Image:
    """All glyphs of a style on one transparent image, row by row."""
    rows = -(-len(images) // COLUMNS)
    canvas = np.zeros((rows * SIZE, COLUMNS * SIZE, 4), np.uint8)
    for index, image in enumerate(images):
        if image is not None:
            row, column = divmod(index, COLUMNS)
            canvas[row * SIZE : (row + 1) * SIZE, column * SIZE : (column + 1) * SIZE] = image
    return Image.fromarray(canvas)


def order(text: str) -> bytes:
    """A sort key that mixes well and is the same everywhere."""
    return hashlib.sha256(text.encode()).digest()


def renderings(ids: list[str], count: int) -> list[str]:
    """``count`` paths, turn by turn over the concepts."""
    return [f"flat/{ids[i % len(ids)]}/{i // len(ids):03d}" for i in range(count)]


def mixed(seen: list[T], unseen: list[T]) -> list[T]:
    """An order of classes whose two halves hold as many that the shipped backbones never saw, give or take one.

    Base-to-new compares the halves, so they must be equally hard.
    """
    return [*seen[::2], *unseen[::2], *seen[1::2], *unseen[1::2]]


def split_subgroups(concepts: list[Concept]) -> dict[str, list[Row]]:
    """Classes are subgroups; the three parts show different objects."""
    learnt = {concept.kind for concept in concepts if concept.pretrain}
    kinds: dict[str, list[str]] = {}
    for concept in concepts:
        if concept.name in MISDRAWN:
            continue
        kinds.setdefault(concept.kind, []).append(concept.id)
    split: dict[str, list[Row]] = {"train": [], "val": [], "test": []}
    enough = sorted(kind for kind, ids in kinds.items() if len(ids) >= MIN_OBJECTS)
    classes = mixed([k for k in enough if k in learnt], [k for k in enough if k not in learnt])
    for label, kind in enumerate(classes):
        ids = sorted(kinds[kind], key=order)
        test, val = max(2, round(0.35 * len(ids))), max(1, round(0.15 * len(ids)))
        parts = {"test": ids[:test], "val": ids[test : test + val], "train": ids[test + val :]}
        for part, shown in parts.items():
            split[part] += [(path, label, kind) for path in renderings(shown, PER_SUBGROUP[part])]
    return split


def split_concepts(concepts: list[Concept]) -> dict[str, list[Row]]:
    """Classes are objects that all coloured styles but noto1 draw; the parts are different renderings."""
    needed = {"flat", "fluent", "twemoji", "noto", "emojione"}
    drawn = [c for c in concepts if set(c.styles) >= needed and c.name not in MISDRAWN]
    seen = sorted((c for c in drawn if c.pretrain), key=lambda c: order(c.id))[:SEEN_CONCEPTS]
    unseen = sorted((c for c in drawn if not c.pretrain), key=lambda c: order(c.id))[:UNSEEN_CONCEPTS]
    split: dict[str, list[Row]] = {"train": [], "val": [], "test": []}
    for label, concept in enumerate(mixed(seen, unseen)):
        number = 0
        for part, count in PER_CONCEPT.items():
            for _ in range(count):
                split[part].append((f"flat/{concept.id}/{number:03d}", label, concept.name))
                number += 1
    return split


# What the contact sheet shows: objects that all styles draw.
SHOWN = ("dog-face", "penguin", "crab", "honeybee", "sunflower", "pineapple", "hamburger", "castle", "bicycle",
         "rocket", "violin", "top-hat")  # fmt: skip


def contact_sheet(side: int = 64) -> Image.Image:
    """Some objects (columns) in every style (rows), each as a test image of ``side`` pixels."""
    left, top = 72, 16
    canvas = Image.new("RGB", (left + len(SHOWN) * side, top + len(STYLES) * side), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    for column, concept in enumerate(SHOWN):
        name = concept.replace("-", " ")
        draw.text((left + (column + 0.5) * side, top / 2), name, "black", font, anchor="mm")
    for row, style in enumerate(STYLES):
        draw.text((4, top + (row + 0.5) * side), style, "black", font, anchor="lm")
        images = GlyphReader(size=side)([f"{style}/{concept}/sheet" for concept in SHOWN])
        pixels = ((images * STD + MEAN).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        for column, image in enumerate(pixels):
            canvas.paste(Image.fromarray(image), (left + column * side, top + row * side))
    return canvas


def build(modules: Path, out: Path, quality: int) -> None:
    """Write the sheets, the metadata and the splits."""
    concepts, images = collect(modules)
    out.mkdir(parents=True, exist_ok=True)
    for style in STYLES:
        sheet(images[style]).save(out / f"{style}.webp", quality=quality, alpha_quality=90, method=6)
    packages = {style: "@".join(pinned) for style, pinned in STYLES.items()}
    meta = {"size": SIZE, "columns": COLUMNS, "packages": packages, "concepts": concepts}
    (out / "glyphs.json").write_text(json.dumps(meta, indent=None, separators=(",", ":")) + "\n")
    print(f"{len(concepts)} concepts, {sum(c['pretrain'] for c in concepts)} for pretraining -> {out}")
    read = [Concept.from_row(row) for row in concepts]
    for name, split in (("subgroups", split_subgroups(read)), ("concepts", split_concepts(read))):
        (out / f"split_{name}.json").write_text(json.dumps(split, separators=(",", ":")) + "\n")
        print(f"split_{name}: " + ", ".join(f"{part} {len(rows)}" for part, rows in split.items()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, help="folder that holds node_modules (default: install them)")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write to (default: %(default)s)")
    parser.add_argument("--quality", type=int, default=80, help="quality of the sheets, 1 to 100")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="draw a contact sheet instead of building")
    args = parser.parse_args()
    if args.sheet:
        args.sheet.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet().quantize(128).save(args.sheet, optimize=True)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.packages or Path(scratch)
        if args.packages is None:
            install(folder)
        build(folder / "node_modules", args.out, args.quality)
    return 0


if __name__ == "__main__":
    sys.exit(main())
