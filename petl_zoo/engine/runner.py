"""MMEngine's Runner with checkpoints of the tuner alone, exact resuming and a calm terminal."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import barrier, master_only
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from petl_zoo.model import VLModel
from registry import RUNNERS

from .checkpoint import FORMAT, newest_checkpoint, read_checkpoint, write_checkpoint
from .faults import RunError
from .identity import check_same_tuner

# Warnings of MMEngine about itself, which nobody who trains a tuner can act on.
_NOTICES = ("FileClient", "HardDiskBackend", "has no metainfo")


class _Calm(logging.Filter):
    """Lets a run's progress through to the terminal, and warnings that somebody can act on; the log file has it all."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if record.levelno >= logging.WARNING:
            return not any(notice in message for notice in _NOTICES)
        ours = Path(record.pathname).parent == Path(__file__).parent
        # The table at the end has what was tested.
        return ours or (record.module == "logger_hook" and not message.startswith(("Exp name", "Epoch(test)")))


@RUNNERS.register_module()
class ZooRunner(Runner):
    """A Runner whose checkpoints hold what the tuner trains, and nothing of the frozen backbone.

    Under ``buffers`` is what tuner and head keep beside it, such as an average. For resuming there are also the
    optimizer and gradients that it has not acted on.

    The config's ``identity`` says which run this is; a checkpoint carries it, so that one of another tuner is refused.
    """

    @property
    def vl_model(self) -> VLModel:
        """The model without a distributed wrapper."""
        return self.model.module if is_model_wrapper(self.model) else self.model

    @property
    def identity(self) -> dict[str, Any]:
        """What this run is: see ``identity.run_identity``."""
        return self.cfg["identity"].to_dict()

    def setup_env(self, env_cfg: Mapping[str, Any]) -> None:
        """Start the processes' group; MMEngine's own start needs a GPU."""
        if self._launcher == "pytorch" and not torch.cuda.is_available() and not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")
        super().setup_env(env_cfg)

    def wrap_model(self, model_wrapper_cfg: Any, model: Any) -> Any:
        """Wrap a model for a distributed run; one that trains nothing has nothing to exchange."""
        return super().wrap_model(model_wrapper_cfg, model) if model.roles else model.to(get_device())

    def _init_model_weights(self) -> None:
        """Leave the weights as they are: MMEngine would call the backbone's ``init_weights`` over its checkpoint."""

    def build_logger(self, log_level: int | str = "INFO", log_file: str | None = None, **options: Any) -> MMLogger:
        """Build MMEngine's logger; its file gets everything, the terminal what a reader needs."""
        logger = super().build_logger(log_level=log_level, log_file=log_file, **options)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(_Calm())
        return logger

    @master_only
    def save_checkpoint(
        self, out_dir: str, filename: str, *args: Any, meta: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        """Write the trained parameters and what resuming needs; whole or not at all.

        Args:
            out_dir: folder.
            filename: name of the file.
            meta: ``epoch`` and ``iter`` that are complete.
            args: what MMEngine's hooks may add has no meaning here.
            options: likewise.

        Raises:
            RunError: the file could not be written.
        """
        assert isinstance(self.optim_wrapper, OptimWrapper)
        place = {"epoch": self.epoch + 1, "iter": self.iter} | dict(meta or {})
        checkpoint: dict[str, Any] = {
            "meta": {"format": FORMAT, **place, "seed": self.seed, "identity": self.identity},
            "state_dict": {name: value.cpu() for name, value in self.vl_model.trained_state().items()},
            "optimizer": self.optim_wrapper.state_dict(),
            "param_schedulers": [scheduler.state_dict() for scheduler in self.param_schedulers],
        }
        trained = self.vl_model.trained_parameters()
        further = {
            "buffers": {name: value.cpu() for name, value in self.vl_model.kept_state().items()},
            # An epoch may end between two steps of the optimizer.
            "gradients": {name: p.grad.cpu() for name, p in trained.items() if p.grad is not None},
        }
        checkpoint |= {key: tensors for key, tensors in further.items() if tensors}
        self.call_hook("before_save_checkpoint", checkpoint=checkpoint)
        write_checkpoint(Path(out_dir) / filename, checkpoint)

    def load_checkpoint(self, filename: str, map_location: Any = "cpu", *args: Any, **options: Any) -> dict[str, Any]:
        """Put a checkpoint's trained parameters, and tuner's and head's buffers, into the model.

        Raises:
            RunError: the file cannot be read, is of another tuner, or lacks something.
        """
        checkpoint = read_checkpoint(Path(filename))
        check_same_tuner(Path(filename), checkpoint["meta"]["identity"], self.identity)
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        try:
            self.vl_model.load_trained_state(checkpoint["state_dict"])
            self.vl_model.load_kept_state(checkpoint.get("buffers", {}))
        except ValueError as error:
            raise RunError(f"checkpoint: {filename}: {error}") from error
        self._has_loaded = True
        self.logger.info(f"Loaded {filename}")
        return checkpoint

    def load_or_resume(self) -> None:
        """Load what is asked for: the newest whole checkpoint of the work dir for resuming, or a given one."""
        if self._has_loaded:
            return
        if self._resume:
            newest = newest_checkpoint(Path(self.work_dir))
            barrier()
            if newest is not None:
                self.resume(str(newest))
        elif self._load_from is not None:
            self.load_checkpoint(self._load_from)

    def resume(self, filename: str, *args: Any, **options: Any) -> None:
        """Go on after a checkpoint's last complete epoch, with its optimizer and schedule."""
        checkpoint = self.load_checkpoint(filename)
        self.train_loop._epoch = checkpoint["meta"]["epoch"]
        self.train_loop._iter = checkpoint["meta"]["iter"]
        optim_wrapper, schedulers = self.optim_wrapper, self.param_schedulers
        assert isinstance(optim_wrapper, OptimWrapper)
        assert isinstance(schedulers, list)
        optim_wrapper.load_state_dict(checkpoint["optimizer"])
        for scheduler, state in zip(schedulers, checkpoint["param_schedulers"], strict=True):
            scheduler.load_state_dict(state)
        trained = self.vl_model.trained_parameters()
        for name, gradient in checkpoint.get("gradients", {}).items():
            trained[name].grad = gradient.to(trained[name].device)
        self.logger.info(f"Resumed after epoch {checkpoint['meta']['epoch']}")

    def _log_env(self, env_cfg: Mapping[str, Any]) -> None:
        """Log nothing: the record has the machine, the work dir the config, and MMEngine's report needs distutils."""
