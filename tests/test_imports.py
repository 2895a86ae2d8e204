"""Dependencies point one way: registry, then the parts, then the model, the engine, the tools; results stand alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("backbones", "tuners", "heads", "data", "evaluation")

# What each package may import of the project, itself aside. Tuners read backbones, heads and data read class names.
ALLOWED = {
    "registry": set(),
    "petl_zoo.registry": {"registry"},
    "petl_zoo.results": set(),
    **{f"petl_zoo.{part}": {"registry", *(f"petl_zoo.{other}" for other in PARTS)} for part in PARTS},
    "petl_zoo.model": {"registry", *(f"petl_zoo.{part}" for part in PARTS)},
    "petl_zoo.engine": {"registry", "petl_zoo.model", "petl_zoo.results", *(f"petl_zoo.{part}" for part in PARTS)},
    "tools": {"registry", "petl_zoo.model", "petl_zoo.results", "petl_zoo.engine", *(f"petl_zoo.{p}" for p in PARTS)},
}


def package(module: str) -> str:
    """``petl_zoo.tuners.maple`` belongs to ``petl_zoo.tuners``."""
    return ".".join(module.split(".")[: 2 if module.startswith("petl_zoo.") else 1])


def imported(path: Path) -> Iterator[str]:
    """Absolute names of all modules that a file imports, those for type checkers alone left out."""
    module = path.relative_to(ROOT).with_suffix("").parts
    nodes: list[ast.AST] = [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            nodes += node.orelse
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module[: -node.level] if node.level else ()
            name = ".".join([*above, *([node.module] if node.module else [])])
            yield name
            yield from (f"{name}.{alias.name}" for alias in node.names)


def files() -> list[Path]:
    found = [path for top in ("registry", "petl_zoo", "tools") for path in sorted((ROOT / top).rglob("*.py"))]
    return [path for path in found if path != ROOT / "petl_zoo" / "__init__.py"]


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_dependencies_point_one_way(path: Path) -> None:
    own = package(".".join(path.relative_to(ROOT).with_suffix("").parts))
    used = {package(name) for name in imported(path)} & set(ALLOWED)
    wrong = used - ALLOWED[own] - {own}
    assert not wrong, f"{own} must not import {', '.join(sorted(wrong))}"


@pytest.mark.parametrize("path", sorted((ROOT / "petl_zoo" / "results").rglob("*.py")), ids=lambda path: path.name)
def test_results_need_no_torch(path: Path) -> None:
    assert not {"torch", "mmengine"} & {name.split(".")[0] for name in imported(path)}


def test_the_walk_sees_imports() -> None:
    assert "petl_zoo.backbones" in set(imported(ROOT / "petl_zoo" / "model.py"))
    assert "petl_zoo.tuners.base" in set(imported(ROOT / "petl_zoo" / "tuners" / "maple.py"))
