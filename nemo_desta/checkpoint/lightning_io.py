"""Lightning's checkpoint as a directory: the model in the published format, everything needed to resume in ``training_state/``."""

import errno
import itertools
import logging
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import CheckpointIO

from nemo_desta.checkpoint.connector import (
    DAMAGED,
    STATE_FILE,
    TRAINING_STATE,
    CheckpointConfig,
    latest_checkpoint,
    load_weights,
    write_model,
    written_whole,
)

logger = logging.getLogger(__name__)


class DirectoryCheckpointIO(CheckpointIO):
    """Writes and reads checkpoint directories, atomically.

    The state dict of the training module holds only what is trained, under the published names; frozen weights are never written.

    Args:
        config: gives the checkpoint's ``config.json``.
    """

    def __init__(self, config: Callable[[], CheckpointConfig]) -> None:
        self._config = config

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write ``checkpoint`` as the directory ``path``.

        Raises:
            OSError: it cannot be written; the message names the directory, and nothing is left of it.
        """
        with written_whole(Path(path)) as partial:
            (partial / TRAINING_STATE).mkdir()
            write_model(partial, self._config(), checkpoint["state_dict"])
            torch.save({k: v for k, v in checkpoint.items() if k != "state_dict"}, partial / TRAINING_STATE / STATE_FILE)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Put a directory's parts together again.

        Raises:
            ValueError: a part is damaged, or it has weights but no training state (a published checkpoint): it can be evaluated or started from, not resumed.
        """
        return load_state(Path(path), map_location or "cpu")

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint directory."""
        shutil.rmtree(path, ignore_errors=True)


def load_state(folder: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """All that a run needs to go on from a checkpoint directory.

    Raises:
        ValueError: a part is missing or damaged.
    """
    state = folder / TRAINING_STATE / STATE_FILE
    if not state.is_file():
        raise ValueError(f"{folder} cannot be resumed: it has no {TRAINING_STATE}/{STATE_FILE}")
    try:
        # Our own file: optimiser moments and loop counters of Lightning, which are not plain tensors.
        checkpoint = torch.load(state, map_location=map_location, weights_only=False)
    except (OSError, RuntimeError, MemoryError, EOFError, pickle.UnpicklingError, KeyError) as error:
        raise ValueError(f"cannot read the training state {state}: {error}") from error
    return {**checkpoint, "state_dict": load_weights(folder)}


def resumable_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint below ``folder`` that a run can go on from; None where there is none.

    One that is damaged is renamed (``.damaged``), with a warning, and the one before it is taken.

    Raises:
        OSError: the newest one cannot be read for a reason that is the machine's, not the file's (a stale network handle, too little memory): it is kept, and
            the next start may read it.
    """
    while (newest := latest_checkpoint(folder, resumable=True)) is not None:
        try:
            load_state(newest)
        except ValueError as error:
            if _machines_fault(error.__cause__):
                raise OSError(f"{error}; the checkpoint is kept: start the same command again") from error
            logger.warning("%s is damaged (%s): set aside, going on from the checkpoint before it", newest, error)
            _set_aside(newest)
        else:
            return newest
    return None


def _machines_fault(cause: BaseException | None) -> bool:
    if isinstance(cause, FileNotFoundError):
        return False  # another process of the run has just set the checkpoint aside
    return isinstance(cause, (OSError, MemoryError)) or "memory" in str(cause)


def _set_aside(folder: Path) -> None:
    """Renamed to the first free name. Every process of a run comes here: what another one has just set aside is neither replaced nor removed."""
    for number in itertools.count(1):
        aside = folder.with_name(folder.name + (DAMAGED if number == 1 else f".{number}{DAMAGED}"))
        try:
            folder.rename(aside)
        except FileNotFoundError:
            return  # another process of the same run was faster
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                continue  # left by an earlier damage of the same step
            said = f"cannot rename the damaged checkpoint {folder} ({error.strerror}): remove it and start the same command again"
            raise OSError(error.errno, said) from error
        return
