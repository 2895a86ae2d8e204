"""Whether the options of a component are those that its constructor takes."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from mmengine.registry import Registry

from registry import HOOKS, OPTIMIZERS, VISBACKENDS

from .faults import Fault, did_you_mean


def component_faults(section: str, component: Mapping[str, Any], registry: Registry) -> Iterator[Fault]:
    if "type" not in component:
        yield Fault(f"{section}.type", f"missing; there are {', '.join(_registered(registry))}")
        return
    name = component["type"]
    cls = name if inspect.isclass(name) else registry.get(str(name))
    if cls is None:
        names = _registered(registry)
        kind = "tuner" if section.startswith("tuner.") else section  # A stack's member is a tuner.
        problem = f"no {kind} {name!r}; there are {', '.join(names)}{did_you_mean(name, names)}"
        yield Fault(f"{section}.type", problem)
        return
    options = {key: value for key, value in component.items() if key != "type"}
    yield from _signature_faults(section, options, cls, cls.__name__)
    inside = str(getattr(cls, "members", ""))  # A Stack's option that holds further components.
    if isinstance(options.get(inside), Mapping):
        for member, config in options[inside].items():
            key = f"{section}.{inside}.{member}"
            if isinstance(config, Mapping):
                yield from component_faults(key, config, registry)
            else:
                yield Fault(key, f"{config!r} is not allowed; give a dict(type=...)")


def _signature_faults(section: str, options: Mapping[str, Any], cls: Any, title: str) -> Iterator[Fault]:
    parameters = inspect.signature(cls).parameters
    named = {n: p for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for key, value in options.items():
            if key not in named:
                has = f"it has {', '.join(named)}" if named else "it has none"
                problem = f"{title} has no option {key!r} (value {value!r}); {has}{did_you_mean(key, named)}"
                yield Fault(f"{section}.{key}", problem)
    for key, parameter in named.items():
        if parameter.default is parameter.empty and key not in options:
            yield Fault(f"{section}.{key}", f"missing; {title} needs it")
    yield from _type_faults(section, {k: v for k, v in options.items() if k in named}, _hints(cls))


def _type_faults(section: str, options: Mapping[str, Any], hints: Mapping[str, Any]) -> Iterator[Fault]:
    for key, value in options.items():
        if key in hints and not fits(value, hints[key]):
            wanted = hints[key].__name__ if inspect.isclass(hints[key]) else str(hints[key]).replace("typing.", "")
            yield Fault(f"{section}.{key}", f"{value!r} is not allowed; give {wanted.replace('collections.abc.', '')}")


def dataclass_faults(section: str, options: Mapping[str, Any], description: type) -> Iterator[Fault]:
    names = field_names(description)
    found = []
    for key, value in options.items():
        if key not in names:
            problem = f"no such key (value {value!r}); there are {', '.join(names)}{did_you_mean(key, names)}"
            found.append(Fault(f"{section}.{key}", problem))
    needed = [f.name for f in fields(description) if f.default is MISSING and f.default_factory is MISSING]
    found += [Fault(f"{section}.{key}", "missing") for key in needed if key not in options]
    found += _type_faults(section, {k: v for k, v in options.items() if k in names}, typing.get_type_hints(description))
    if not found:
        try:
            description(**options)
        except ValueError as error:
            found.append(Fault(section, str(error)))
    yield from found
    if section == "schedule" and isinstance(options.get("optimizer"), Mapping):
        optimizer = {"params": None, "lr": None, **options["optimizer"]}
        faults = component_faults("schedule.optimizer", optimizer, OPTIMIZERS)
        yield from (fault for fault in faults if not fault.key.endswith((".params", ".lr")))
    if section == "runtime":
        for key, registry in (("visualizers", VISBACKENDS), ("hooks", HOOKS)):
            items = options.get(key, ())
            for item in items if isinstance(items, list | tuple) else ():
                component = item if isinstance(item, Mapping) else {"type": item}
                faults = component_faults(f"runtime.{key}", component, registry)
                # The folder is the work dir, which the visualizer hands on.
                yield from (fault for fault in faults if fault.key != "runtime.visualizers.save_dir")


def fits(value: Any, hint: Any) -> bool:
    """Whether a config's value can be of an annotated type; what cannot be decided fits."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, option) for option in inside)
    if hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (str, bool):
        return isinstance(value, hint)
    if origin in (tuple, list, Sequence):
        item = inside[0] if inside else Any
        return isinstance(value, list | tuple) and all(fits(one, item) for one in value)
    if origin in (dict, Mapping):
        return isinstance(value, Mapping)
    if inspect.isclass(hint):
        return not isinstance(value, str | int | float | bool | None)
    return True


def _hints(cls: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls.__init__ if inspect.isclass(cls) else cls)
    except NameError:  # An annotation that exists for type checkers alone.
        return {}


def field_names(description: type) -> list[str]:
    return [field.name for field in fields(description)]


def _registered(registry: Registry) -> list[str]:
    registry.import_from_location()
    names = set(registry.module_dict)
    return sorted(names | set(registry.parent.module_dict) if registry.parent else names)
