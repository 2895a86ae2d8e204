"""The tuners: one method, one file. Importing this package registers them all."""

from .adapter import Adapter
from .aurora import Aurora
from .base import Tuner
from .bitfit import BitFit
from .cocoop import CoCoOp
from .coop import CoOp
from .dopl import DoPL
from .dora import DoRA
from .full import FullFineTuning
from .linear_probe import LinearProbe
from .lora import LoRA
from .maple import MaPLe
from .mpl import MPL
from .none import NoTuner
from .uniadapter import UniAdapter
from .vpt import IVLP, VPT

__all__ = [
    "IVLP",
    "MPL",
    "VPT",
    "Adapter",
    "Aurora",
    "BitFit",
    "CoCoOp",
    "CoOp",
    "DoPL",
    "DoRA",
    "FullFineTuning",
    "LinearProbe",
    "LoRA",
    "MaPLe",
    "NoTuner",
    "Tuner",
    "UniAdapter",
]
