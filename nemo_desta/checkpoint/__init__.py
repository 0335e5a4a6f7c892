"""Checkpoints in the reference's own format, with the resume state beside it (contract C4)."""

from nemo_desta.checkpoint.connector import (
    CheckpointConfig,
    latest_checkpoint,
    load_into,
    load_weights,
    read_config,
    save_checkpoint,
    trainable_state,
)

__all__ = ["CheckpointConfig", "latest_checkpoint", "load_into", "load_weights", "read_config", "save_checkpoint", "trainable_state"]
