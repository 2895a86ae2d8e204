"""What a tool says when it is stopped, by a user or by a full disk."""

from __future__ import annotations

import errno

import pytest

from petl_zoo.engine.faults import BAD_INPUT, INTERRUPTED, report_faults

AGAIN = "The same command goes on."


def stop(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), INTERRUPTED, "Interrupted."),
        (OSError(errno.ENOSPC, "No space left on device"), BAD_INPUT, "free some space"),
    ],
)
def test_how_to_go_on_is_said_by_tools_that_can(
    error: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report_faults(lambda: stop(error)) == code
    told = capsys.readouterr().err
    assert words in told
    assert "--resume" not in told
    assert report_faults(lambda: stop(error), again=AGAIN) == code
    assert capsys.readouterr().err.rstrip().endswith(AGAIN)


def test_other_errors_of_the_system_are_no_bad_input() -> None:
    with pytest.raises(OSError, match="pipe"):
        report_faults(lambda: stop(OSError(errno.EPIPE, "broken pipe")))
