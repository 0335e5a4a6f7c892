"""Lightning's checkpoint as a directory: the model in the published format, everything needed to resume in ``training_state/``."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import CheckpointIO

from nemo_desta.checkpoint.connector import TRAINING_STATE, CheckpointConfig, load_weights, write_model

STATE_FILE = "state.pt"


class DirectoryCheckpointIO(CheckpointIO):
    """Writes and reads checkpoint directories, atomically.

    The state dict of the training module holds only what is trained, under the published names; frozen weights are never written.

    Args:
        config: gives the checkpoint's ``config.json``.
    """

    def __init__(self, config: Callable[[], CheckpointConfig]) -> None:
        self._config = config

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write ``checkpoint`` as the directory ``path``."""
        folder = Path(path)
        partial = folder.with_name(folder.name + ".part")
        shutil.rmtree(partial, ignore_errors=True)
        (partial / TRAINING_STATE).mkdir(parents=True)
        write_model(partial, self._config(), checkpoint["state_dict"])
        torch.save({k: v for k, v in checkpoint.items() if k != "state_dict"}, partial / TRAINING_STATE / STATE_FILE)
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Put a directory's parts together again.

        Raises:
            ValueError: it has weights but no training state (a published checkpoint): it can be evaluated or started from, not resumed.
        """
        folder = Path(path)
        state = folder / TRAINING_STATE / STATE_FILE
        if not state.is_file():
            raise ValueError(f"{folder} cannot be resumed: it has no {TRAINING_STATE}/{STATE_FILE}")
        # Our own file: optimiser moments and loop counters of Lightning, which are not plain tensors.
        checkpoint = torch.load(state, map_location=map_location or "cpu", weights_only=False)
        return {**checkpoint, "state_dict": load_weights(folder)}

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint directory."""
        shutil.rmtree(path, ignore_errors=True)
