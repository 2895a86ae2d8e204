"""No tuning: the frozen backbone, zero-shot."""

from __future__ import annotations

from registry import TUNERS

from .base import Tuner


@TUNERS.register_module()
class NoTuner(Tuner):
    """Train nothing and change nothing: the zero-shot row of every table.

    Source: Radford et al. 2021 (CLIP), section 3.1.
    """

    identity = True
