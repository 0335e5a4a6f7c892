"""Ctrl-C and SIGTERM in a training: a checkpoint at the next step boundary, then the end (contract C6)."""

import logging
import os
import shutil
import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from nemo_desta.checkpoint import is_complete, step_of

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class SaveAndStop(Callback):
    """A checkpoint at the last step and at an interruption, whatever the interval; a second Ctrl-C ends at once.

    Used as a context around the whole run, so that a signal before the first step is a `KeyboardInterrupt`, and as a callback of the trainer.

    Attributes:
        requested: whether a signal came, on whatever process, while the model was trained.
    """

    def __init__(self) -> None:
        self.requested = False
        self._training = False
        self._pid = os.getpid()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        self._listen()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if _may_handle_signals():
            for number, handler in self._before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _listen(self) -> None:
        if _may_handle_signals():
            for number in SIGNALS:
                signal.signal(number, self._notice)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            return  # a data worker: the terminal's Ctrl-C reaches it too, but this process still needs it to finish the step
        if self.requested or not self._training:
            raise KeyboardInterrupt
        self.requested = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals back: Lightning has put its own SIGTERM handler, which ends without a checkpoint, before ours."""
        self._listen()
        self._training = True

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """All processes stop at the same step, whichever of them got the signal."""
        if trainer.strategy.reduce_boolean_decision(self.requested, all=False):
            self.requested = trainer.should_stop = True
            logger.warning("interrupted: saving a checkpoint at step %d; once more ends at once", trainer.global_step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        folder = Path(str(trainer.checkpoint_callback.dirpath)) / f"step={trainer.global_step}.ckpt"  # type: ignore[union-attr]
        wanted = trainer.global_step > 0 and not is_complete(folder, resumable=True)
        if trainer.strategy.broadcast(wanted):  # saving is an act of all processes: the first one decides, whatever the others see on their disks
            trainer.save_checkpoint(folder)
        keep = trainer.checkpoint_callback.save_top_k  # type: ignore[union-attr]
        if trainer.is_global_zero and keep >= 0:
            remove_older(folder.parent, keep + 1)
        trainer.strategy.barrier()  # the others look for the last checkpoint next, and must not meet one that is being removed
        self._training = False


def remove_older(folder: Path, keep: int) -> None:
    """Remove all but the newest checkpoints: those of earlier starts, which NeMo's callback forgets when a run goes on."""
    complete = sorted((path for path in folder.glob("step=*.ckpt") if is_complete(path)), key=lambda path: step_of(path) or 0)
    for path in complete[: max(len(complete) - keep, 0)]:
        shutil.rmtree(path, ignore_errors=True)


def _may_handle_signals() -> bool:
    return threading.current_thread() is threading.main_thread()
