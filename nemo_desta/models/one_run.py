"""All processes of a run go on from the same step of the same run directory, or none does.

Every process looks for the checkpoint on its own disk: on machines that do not share ``run_dir`` they would train different connectors together, with a loss
that looks plausible.
"""

import os
import time
from contextlib import suppress
from pathlib import Path

import lightning.pytorch as pl
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback

from nemo_desta.models.steps import is_distributed


class OneRun(Callback):
    """Compares the processes before the first step.

    Args:
        record: a file in the run directory that the first process has written at this start.
    """

    patience = 90.0  # seconds until all must see it: network file systems keep what they last knew of a folder for up to a minute

    def __init__(self, record: Path) -> None:
        self.record = record

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Raises OSError on all processes alike where they differ."""
        if not is_distributed():
            return
        found: list[tuple[int, bool]] = [(0, False)] * dist.get_world_size()
        dist.all_gather_object(found, (trainer.global_step, _seen(self.record, self.patience)))
        check_one_run(found, self.record)


def check_one_run(found: list[tuple[int, bool]], record: Path) -> None:
    """``found``: by rank, the step to go on from and whether the record is seen.

    Raises:
        OSError: some process is in another run than the first one.
    """
    remedy = "run_dir must lie on a file system that all machines share, at the same path"
    if blind := [rank for rank, (_, seen) in enumerate(found) if not seen]:
        raise OSError(f"process {blind[0]} does not see {record}, which process 0 has written: {remedy}")
    first = found[0][0]
    if others := {rank: step for rank, (step, _) in enumerate(found) if step != first}:
        rank, step = next(iter(others.items()))
        raise OSError(f"process {rank} would go on from step {step} and process 0 from step {first}, in {record.parent}: {remedy}; then start again")


def _seen(path: Path, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        with suppress(OSError):
            os.listdir(path.parent)  # lets a network file system look again at a folder that it has remembered as lacking the file
        time.sleep(1)
    return True
