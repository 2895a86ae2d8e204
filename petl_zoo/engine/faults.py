"""Bad input ends in a message and an exit code, not in a traceback."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache

from rich.console import Console

BAD_INPUT = 2
INTERRUPTED = 130
STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


@dataclass(frozen=True)
class Fault:
    """One fault of a config.

    Attributes:
        key: where, such as ``tuner.depth``.
        problem: what is wrong, with the value, what is allowed and the mend.
        fatal: whether the run cannot start; else it can, and somebody should know.
    """

    key: str
    problem: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.key}: {self.problem}"


class RunError(ValueError):
    """A checkpoint or work dir that cannot be written, read or used by this run; the message says what to do."""


class ConfigError(ValueError):
    """All faults of a config."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        super().__init__(f"{count} in the config:\n" + "\n".join(f"  {fault}" for fault in faults))


@contextmanager
def blaming(section: str) -> Iterator[None]:
    """Turn what a component raises over its options into a fault of its section.

    A message that begins with a key, ``dataset.root (...)``, names the fault's key itself.
    """
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, OSError) as error:
        key = re.match(rf"({section}\.\w+)[ :]+", str(error))
        problem = str(error)[key.end() :] if key else str(error)
        raise ConfigError([Fault(key[1] if key else section, problem)]) from error


def did_you_mean(word: object, words: Iterable[str]) -> str:
    """The end of a sentence that proposes the nearest word, if one is near."""
    lower = {known.lower(): known for known in words}
    close = get_close_matches(str(word).lower(), lower, n=1)
    return f"; did you mean {lower[close[0]]!r}?" if close else ""


@cache
def warn(message: str) -> None:
    """Tell on the terminal, once, what does not stop a run."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print("[bold yellow]warning:[/] ", end="")
    console.print(message, markup=False)


def report_faults(act: Callable[[], object], *, again: str = "") -> int:
    """Run a tool.

    Args:
        again: how to go on after an interruption, a sentence; none where there is nothing to go on with.

    Returns:
        The exit code: 0, ``BAD_INPUT`` or ``INTERRUPTED``.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        act()
    except (ConfigError, RunError) as error:
        console.print("[bold red]error:[/] ", end="")
        console.print(str(error), markup=False)
        return BAD_INPUT
    except OSError as error:
        if error.errno not in STORAGE_ERRORS:
            raise
        console.print("[bold red]error:[/] ", end="")
        console.print(f"{error}: free some space, or write elsewhere. {again}".rstrip(), markup=False)
        return BAD_INPUT
    except KeyboardInterrupt:
        console.print(f"\nInterrupted. {again}".rstrip(), markup=False)
        return INTERRUPTED
    return 0
