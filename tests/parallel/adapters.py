"""LoRA for the tests of several processes."""

import importlib.util

from nemo_desta.config import LoraConfig

# Column-parallel (query, value, up) and row-parallel (output, down) targets, and some of a fused weight left out.
LORA = LoraConfig(enabled=True, rank=4, alpha=8, dropout=0.0, target_modules=["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"])


def without_peft() -> bool:
    """Whether the `lora` extra is missing."""
    return importlib.util.find_spec("peft") is None
