"""A backbone, a tuner and a head: the one model that the runner trains."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import Tensor

from petl_zoo.backbones import Backbone, Plan, TextBatch, caption_template, tokenize, tokenize_captions
from petl_zoo.backbones.checkpoints import Loaded, load_checkpoint
from petl_zoo.data.classes import ClassNames
from petl_zoo.heads import Head
from petl_zoo.tuners import Tuner
from registry import BACKBONES, HEADS, MODELS, TUNERS

# Class sets whose texts or features are remembered: a run has a few, but pretraining has a new one each step.
REMEMBERED = 8


@dataclass(frozen=True)
class Parameters:
    """Where the parameters are.

    Attributes:
        total: all parameters of backbone, tuner and head.
        trainable: those that are trained.
        by_stream: trainable ones by stream (``joint`` belongs to none).
        by_role: trainable ones by role.
        added: parameters that the tuner adds to the backbone.
    """

    total: int
    trainable: int
    by_stream: dict[str, int]
    by_role: dict[str, int]
    added: int


class _Remembered(OrderedDict[Any, Any]):
    """A mapping that forgets its oldest entry beyond ``REMEMBERED``."""

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        if len(self) > REMEMBERED:
            self.popitem(last=False)


@MODELS.register_module()
class VLModel(BaseModel):
    """A frozen backbone, adapted by one tuner, read by one head.

    The model holds no data set: a batch brings its class names, so one model serves base classes, new classes and other
    data sets in turn. Only what the tuner (and the head) declare is trained.
    """

    def __init__(
        self,
        backbone: Backbone | dict[str, Any],
        tuner: Tuner | dict[str, Any],
        head: Head | dict[str, Any],
        classes: Sequence[str] = (),
        data_preprocessor: dict[str, Any] | None = None,
    ) -> None:
        """Build the parts, load the backbone's checkpoint, attach the tuner and freeze what it does not declare.

        Args:
            backbone: a backbone, or its config.
            tuner: a tuner, or its config.
            head: a head, or its config.
            classes: names of the training classes, for tuners with parameters of their own for each class.
            data_preprocessor: MMEngine's; the default moves tensors to the model's device.

        Raises:
            ValueError: the parts do not fit together; the message says why.
        """
        super().__init__(data_preprocessor)
        self.backbone: Backbone = BACKBONES.build(backbone) if isinstance(backbone, Mapping) else backbone
        self.tuner: Tuner = TUNERS.build(tuner) if isinstance(tuner, Mapping) else tuner
        self.head: Head = HEADS.build(head) if isinstance(head, Mapping) else head
        check_fit(self.backbone, self.tuner, self.head, classes)

        self.loaded: Loaded | None = None
        if self.backbone.checkpoint is not None and not self.backbone.like.is_meta:
            self.loaded = load_checkpoint(self.backbone, self.backbone.checkpoint)
        self.backbone_parameters = sum(p.numel() for p in self.backbone.parameters())
        self.backbone.use(self.head.uses(self.backbone))
        self.head.attach(self.backbone)
        self.tuner.attach(self.backbone, classes)
        self.roles = self.tuner.trained(self.backbone)
        self.roles |= {f"head.{name}": "head" for name, _ in self.head.named_parameters()}
        parameters = dict(self.named_parameters())
        unknown = sorted(set(self.roles) - set(parameters))
        if unknown:
            raise ValueError(f"{type(self.tuner).__name__} declares parameters that do not exist: {', '.join(unknown)}")
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in self.roles)

        self._texts: _Remembered = _Remembered()
        self._features: _Remembered = _Remembered()
        self.head.start(self)

    # The model's state, as far as a tuner's checkpoint goes -------------------------------------------------------

    def trained_parameters(self) -> dict[str, torch.nn.Parameter]:
        """What is trained, by name."""
        return {name: p for name, p in self.named_parameters() if name in self.roles}

    def trained_state(self) -> dict[str, Tensor]:
        """The trained parameters alone: what a checkpoint holds."""
        return {name: p.detach() for name, p in self.trained_parameters().items()}

    @torch.no_grad()
    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """Put trained parameters in place; all names and shapes must be this model's.

        Raises:
            ValueError: the state is of another tuner, or of one with other options; nothing is changed.
        """
        _fill(self.trained_parameters(), state, f"tuner {type(self.tuner).__name__}")

    def kept_state(self) -> dict[str, Tensor]:
        """The persistent buffers of tuner and head: what training changes without a gradient."""
        parts = {"tuner.": self.tuner, "head.": self.head}
        return {
            name: value
            for prefix, part in parts.items()
            for name, value in part.state_dict(prefix=prefix, keep_vars=True).items()
            if not isinstance(value, torch.nn.Parameter)
        }

    @torch.no_grad()
    def load_kept_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what ``kept_state`` gave.

        Raises:
            ValueError: something is missing, unexpected or of another shape; nothing is changed.
        """
        _fill(self.kept_state(), state, f"what {type(self.tuner).__name__} and {type(self.head).__name__} keep")

    def count(self) -> Parameters:
        """Count parameters; a tensor that two names share counts once."""
        total = sum(p.numel() for p in self.parameters())
        by_stream: dict[str, int] = {}
        by_role: dict[str, int] = {}
        for name, parameter in self.trained_parameters().items():
            part, _, inner = name.partition(".")
            inner = self.tuner.local_name(inner) if part == "tuner" else inner
            stream, role = self.backbone.stream_of(inner), self.roles[name]
            by_stream[stream] = by_stream.get(stream, 0) + parameter.numel()
            by_role[role] = by_role.get(role, 0) + parameter.numel()
        added = total - self.backbone_parameters
        return Parameters(total, sum(by_role.values()), by_stream, by_role, added)

    # Features -----------------------------------------------------------------------------------------------------

    def image_features(self, images: Tensor, plan: Plan) -> Tensor:
        """(B, 3, H, W) -> (B, E), not normalised."""
        return self.backbone.encode_image(images, plan.of("vision"))

    def class_features(self, classes: ClassNames, plan: Plan) -> Tensor:
        """Text features of class names, not normalised: (C, E), or (B, C, E) for a conditioned tuner.

        Several templates are averaged as CLIP does, normalised. Features that cannot have changed are not computed
        again: in evaluation while the trained parameters stay as they are, in training where no trained parameter
        reaches them.
        """
        only = self.tuner.only_classes
        if only is not None and classes.names != only:
            raise ValueError(
                f"{type(self.tuner).__name__} has vectors for its {len(only)} training classes alone and cannot tell "
                f"the {len(classes.names)} it is shown: test on the training classes, or set class_specific=False"
            )
        templates = (self.tuner.template,) if self.tuner.template is not None else classes.templates

        def encode() -> Tensor:
            return self._encode_classes(classes, templates, plan)

        return encode() if self.tuner.conditioned else self._remember((classes,), encode)

    def teacher_features(self, classes: ClassNames) -> Tensor:
        """What ``class_features`` gives without a plan, in the tuner's ``teacher_templates`` if it has any: (C, E).

        Remembered in the same way.
        """
        own = self.tuner.teacher_templates

        def encode() -> Tensor:
            if own is None:
                return self._encode_classes(classes, classes.templates, Plan())
            return self._encode_classes(classes, own, Plan(), normalised=False)

        return self._remember((classes, "teacher"), encode)

    def _encode_classes(
        self, classes: ClassNames, templates: Sequence[str], plan: Plan, *, normalised: bool = True
    ) -> Tensor:
        each = [self.backbone.encode_text(self.text(t, classes.names), plan.of("text")) for t in templates]
        if len(each) == 1:
            return each[0]
        return torch.stack([F.normalize(features, dim=-1) if normalised else features for features in each]).mean(0)

    def _remember(self, what: tuple[Any, ...], encode: Callable[[], Tensor]) -> Tensor:
        """Class features that were computed before and cannot have changed, or new ones."""
        like = self.backbone.like
        kind = like.device.type
        precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        key = (*what, precision, like.device, like.dtype)
        versions = tuple(p._version for p in self.trained_parameters().values())
        if key in self._features:
            features, valid_for = self._features[key]
            if valid_for is None or (valid_for == versions and not torch.is_grad_enabled()):
                return features
        features = encode()
        constant = torch.is_grad_enabled() and not features.requires_grad
        if constant or not torch.is_grad_enabled():
            self._features[key] = (features, None if constant else versions)
        return features

    def forget(self) -> None:
        """Forget remembered class features."""
        self._features.clear()

    def text(self, template: str, names: Sequence[str]) -> TextBatch:
        """Token ids of a template's texts on the model's device, remembered."""
        key = (template, tuple(names))
        if key not in self._texts:
            self._texts[key] = tokenize(self.backbone.tokenizer, template, names)
        return self._texts[key].to(self.backbone.like.device)

    def caption_text(self, captions: Sequence[str], *, slots: bool = True) -> TextBatch:
        """Token ids of captions on the model's device, cut where they are too long.

        Args:
            slots: whether to put the tuner's slots in front.
        """
        return self._tokenize_captions(captions, slots=slots)[0].to(self.backbone.like.device)

    def count_cut(self, captions: Sequence[str]) -> int:
        """How many captions are longer than the backbone reads."""
        return self._tokenize_captions(captions)[1]

    def _tokenize_captions(self, captions: Sequence[str], *, slots: bool = True) -> tuple[TextBatch, int]:
        template = caption_template(self.tuner.template if slots else None)
        return tokenize_captions(self.backbone.tokenizer, template, captions, self.backbone.caption_length)

    def forward(self, mode: str = "loss", **batch: Any) -> Any:
        """Run a batch as the data loader gives it; see the head for its keys.

        Args:
            mode: ``loss`` for a dict of losses, ``predict`` for a list of one dict a sample, ``tensor`` for normalised
                image and text features.
        """
        if mode == "loss":
            self.backbone.constrain()
            return self.head.loss(self, **batch)
        if mode == "predict":
            return self.head.predict(self, **batch)
        if mode == "tensor":
            return self.head.features(self, **batch)
        raise ValueError(f"mode ({mode!r}) must be 'loss', 'predict' or 'tensor'")


def check_fit(backbone: Backbone, tuner: Tuner, head: Head, classes: Sequence[str]) -> None:
    """Check that a tuner makes sense on a backbone for a head.

    Raises:
        ValueError: a stream is missing, or class names are, or the head cannot work as the tuner does.
    """
    used = head.uses(backbone)
    missing = sorted(tuner.needs - set(backbone.all_streams))
    if missing:
        raise ValueError(
            f"{type(tuner).__name__} needs the stream {', '.join(missing)}, but {type(backbone).__name__} has "
            f"{', '.join(backbone.all_streams)}"
        )
    unused = sorted(tuner.needs - used)
    if unused:
        raise ValueError(
            f"{type(tuner).__name__} needs the stream {', '.join(unused)}, but {type(head).__name__} on "
            f"{type(backbone).__name__} runs {', '.join(sorted(used))} only"
        )
    if tuner.conditioned and not head.conditioned:
        raise ValueError(
            f"{type(tuner).__name__} gives every image texts of its own, so {type(head).__name__} would have to encode "
            "each text once for each image: use it for classification"
        )
    if tuner.needs_classes and not (classes and "classes" in head.trains_on):
        raise ValueError(
            f"{type(tuner).__name__} has parameters for each class, so the class names must be known; "
            f"{type(head).__name__} was given none"
        )
    if tuner.closed_set and "classes" not in head.trains_on:
        raise ValueError(
            f"{type(tuner).__name__} speaks of all classes at once, but {type(head).__name__} has none: use it for "
            "classification"
        )


def _fill(own: Mapping[str, Tensor], state: Mapping[str, Tensor], holder: str) -> None:
    """Copy a checkpoint's tensors into a model's.

    Raises:
        ValueError: names or shapes differ; nothing is changed.
    """
    faults = [f"{name}: missing" for name in own if name not in state]
    faults += [f"{name}: unexpected" for name in state if name not in own]
    faults += [
        f"{name}: shape {tuple(state[name].shape)}, but the model's is {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if faults:
        shown = "\n  ".join(faults[:8] + ([f"... and {len(faults) - 8} more"] if len(faults) > 8 else []))
        raise ValueError(
            f"the checkpoint does not fit {holder} as configured:\n  {shown}\n"
            "Use the config that the checkpoint was trained with."
        )
    for name, tensor in own.items():
        tensor.copy_(state[name])
