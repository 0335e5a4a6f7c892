"""Which low-rank adapters a model has: names, sizes, order and fresh values. Pure functions; no process group is needed.

Both backbones go by this table, so that a checkpoint with adapters is the same file whichever trained it. peft's terms: y += scale * B(A(x)), A [rank, inputs],
B [outputs, rank].
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nemo_desta.checkpoint.connector import LORA_PREFIX
from nemo_desta.config import LoraConfig
from nemo_desta.parallel.weights import Geometry

# Hugging Face module -> (where it lies in a layer, whether tensor parallelism cuts its outputs (or else its inputs)), in the order of the model's parameters.
TARGETS = {
    "q_proj": ("self_attn", True),
    "k_proj": ("self_attn", True),
    "v_proj": ("self_attn", True),
    "o_proj": ("self_attn", False),
    "gate_proj": ("mlp", True),
    "up_proj": ("mlp", True),
    "down_proj": ("mlp", False),
}


@dataclass(frozen=True)
class Cut:
    """The range of a target's outputs (or inputs) that one tensor-parallel position has.

    Attributes:
        start, stop: range in the whole.
        width: of the position, with the filling behind the range.
        whole: of all positions, without filling.
    """

    start: int
    stop: int
    width: int
    whole: int


def check_targets(lora: LoraConfig) -> None:
    """Refuse modules that the Megatron layers do not have.

    Raises:
        ValueError: names them, and those that work.
    """
    unknown = sorted(set(lora.target_modules) - set(TARGETS))
    if unknown or not lora.target_modules:
        known = ", ".join(TARGETS)
        raise ValueError(f"model.lora.target_modules={list(lora.target_modules)}: the megatron backbone adapts {known}, not {unknown or 'nothing'}")


def targets_of(lora: LoraConfig) -> list[str]:
    """Adapted modules in the table's order."""
    return [target for target in TARGETS if target in lora.target_modules]


def cut_of(target: str, g: Geometry) -> Cut:
    """What tensor parallelism leaves of a target at one position."""
    heads = {"q_proj": g.heads.queries * g.heads.size, "k_proj": g.heads.size, "v_proj": g.heads.size, "o_proj": g.heads.queries * g.heads.size}
    if target in heads:
        each, groups = heads[target], g.own_groups
        return Cut(groups.start * each, groups.stop * each, g.heads.padded_groups // g.tp * each, g.heads.groups * each)
    width = g.mlp // g.tp
    return Cut(g.shard * width, (g.shard + 1) * width, width, g.mlp)


def published_names(layer: int, target: str) -> tuple[str, str]:
    """Names of A and B in a checkpoint."""
    prefix = f"{LORA_PREFIX}model.layers.{layer}.{TARGETS[target][0]}.{target}."
    return prefix + "lora_A.default.weight", prefix + "lora_B.default.weight"


def whole_shapes(config: Any, lora: LoraConfig) -> dict[str, tuple[int, int]]:
    """Published name -> shape of every adapter matrix of a model, in the order of the hf model's parameters."""
    geometry, shapes = Geometry.of(config, 1, 0), dict[str, tuple[int, int]]()
    for layer in range(config.num_hidden_layers):
        for target in targets_of(lora):
            cut = cut_of(target, geometry)
            inputs, outputs = (config.hidden_size, cut.whole) if TARGETS[target][1] else (cut.whole, config.hidden_size)
            a, b = published_names(layer, target)
            shapes |= {a: (lora.rank, inputs), b: (outputs, lora.rank)}
    return shapes


def fresh(name: str, shape: Sequence[int]) -> Tensor:
    """A new adapter's A, distributed as peft's: a function of the process's seed and of its name, so that no layout changes it. B starts with zeros."""
    digest = hashlib.sha256(f"{torch.initial_seed()}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") % 2**63)
    return nn.init.kaiming_uniform_(torch.empty(*shape), a=math.sqrt(5), generator=generator)
