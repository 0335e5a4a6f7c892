"""The watchdog as a callback of the trainer."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from nemo_desta.parallel.watchdog import Watchdog


class WatchProgress(Callback):
    """Ends a run of several processes in which nothing moves, with a message that names the silent one.

    Args:
        timeout_seconds: see `ParallelConfig`.
    """

    def __init__(self, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds
        self.watchdog: Watchdog | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.world_size > 1:
            self.watchdog = Watchdog(trainer.global_rank, trainer.world_size, timeout_seconds=self.timeout_seconds)
            self.watchdog.start()

    def progress(self, trainer: pl.Trainer, doing: str) -> None:
        """This process has got somewhere."""
        if self.watchdog is not None:
            self.watchdog.progress(trainer.global_step, doing)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        self.progress(trainer, "computing")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.progress(trainer, "reading data")

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        self.progress(trainer, "saving a checkpoint")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.progress(trainer, "ending")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.watchdog is not None:
            self.watchdog.stop()
            self.watchdog = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")
