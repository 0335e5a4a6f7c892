"""Checkpoints in the reference's own format, with the resume state beside it (contract C4)."""

from nemo_desta.checkpoint.connector import (
    CheckpointConfig,
    is_complete,
    latest_checkpoint,
    load_into,
    load_weights,
    read_config,
    save_checkpoint,
    step_of,
    trainable_state,
)

__all__ = [
    "CheckpointConfig",
    "is_complete",
    "latest_checkpoint",
    "load_into",
    "load_weights",
    "read_config",
    "save_checkpoint",
    "step_of",
    "trainable_state",
]
