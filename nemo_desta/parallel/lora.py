"""Low-rank adapters on Megatron's frozen layers, cut over the processes like the weights that they adapt.

Shape legend: T tokens, B batch, I / O inputs / outputs of a linear layer on this process, R rank, G key/value heads of this process.

Where tensor parallelism cuts a layer's outputs (query, key, value, gate, up), A is whole on every position and B is cut by rows; where it cuts the inputs
(attention output, down), A is cut by columns and B is whole. The sums over the positions are made at the rank's width: R numbers a token, not a hidden state.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import tensor_parallel
from torch import Tensor, nn
from torch.nn import functional as F

from nemo_desta.config import LoraConfig
from nemo_desta.parallel.gpt import Part
from nemo_desta.parallel.lora_table import TARGETS, check_targets, cut_of, fresh, published_names, targets_of
from nemo_desta.parallel.topology import Topology
from nemo_desta.parallel.weights import Geometry

# Megatron's linear layer -> the Hugging Face modules that it is made of.
LINEARS = {
    "self_attention.linear_qkv": ("q_proj", "k_proj", "v_proj"),
    "self_attention.linear_proj": ("o_proj",),
    "mlp.linear_fc1": ("gate_proj", "up_proj"),
    "mlp.linear_fc2": ("down_proj",),
}
SAME_ON_ALL = "data-parallel-rng"  # Megatron's name of the random state that all tensor-parallel positions share


@dataclass(frozen=True)
class Half:
    """One matrix of an adapter on this process.

    Attributes:
        name: in a checkpoint.
        parameter: this process's part; what lies behind the range along ``dim`` is filling, and stays zero.
        dim, start, stop: range of the whole matrix.
        cut: False = every tensor-parallel position has the whole.
    """

    name: str
    parameter: nn.Parameter
    dim: int
    start: int
    stop: int
    cut: bool

    def own(self, whole: Tensor) -> Tensor:
        """This process's part of a whole matrix, with filling."""
        part = torch.zeros_like(self.parameter)
        part.narrow(self.dim, 0, self.stop - self.start).copy_(whole.narrow(self.dim, self.start, self.stop - self.start))
        return part

    def real(self, part: Tensor) -> Tensor:
        """What a part holds of the whole, without filling, on the CPU."""
        return part.detach().narrow(self.dim, 0, self.stop - self.start).cpu()


class Adapter(nn.Module):
    """y += scale * B(A(dropout(x))) on one position.

    Args:
        inputs, outputs: of this position.
        cuts_outputs: see `TARGETS`.
        sequence_parallel: x has this position's tokens only, where the layer's inputs are whole (and y, where its outputs are).
    """

    def __init__(self, inputs: int, outputs: int, lora: LoraConfig, *, cuts_outputs: bool, sequence_parallel: bool, device: torch.device) -> None:
        super().__init__()
        self.a_RI = nn.Parameter(torch.zeros(lora.rank, inputs, device=device))
        self.b_OR = nn.Parameter(torch.zeros(outputs, lora.rank, device=device))
        self.scale, self.dropout = lora.alpha / lora.rank, lora.dropout
        self.cuts_outputs, self.sequence_parallel = cuts_outputs, sequence_parallel

    def forward(self, x_TBI: Tensor) -> Tensor:
        """[T, B, O] in the type of ``x_TBI``; the adapters themselves are fp32."""
        low_TBR = F.linear(self._dropped(x_TBI), self.a_RI.to(x_TBI.dtype))
        return F.linear(self._over_positions(low_TBR), self.b_OR.to(x_TBI.dtype)) * self.scale

    def _over_positions(self, low_TBR: Tensor) -> Tensor:
        if self.cuts_outputs and self.sequence_parallel:
            return tensor_parallel.gather_from_sequence_parallel_region(low_TBR)
        if self.cuts_outputs:
            return tensor_parallel.copy_to_tensor_model_parallel_region(low_TBR)
        if self.sequence_parallel:
            return tensor_parallel.reduce_scatter_to_sequence_parallel_region(low_TBR)
        return tensor_parallel.reduce_from_tensor_model_parallel_region(low_TBR)

    def _dropped(self, x_TBI: Tensor) -> Tensor:
        """Positions that have the same inputs drop the same ones, or their copies of A would drift apart."""
        if not self.training or self.dropout == 0:
            return x_TBI
        if self.cuts_outputs and not self.sequence_parallel:
            with tensor_parallel.get_cuda_rng_tracker().fork(SAME_ON_ALL):
                return F.dropout(x_TBI, self.dropout)
        return F.dropout(x_TBI, self.dropout)


class FusedAdapters(nn.Module):
    """The adapters of the Hugging Face modules that one Megatron layer is made of.

    Args:
        adapters: by Hugging Face module; others of the layer have none.
        widths: outputs of each of its modules on this position, in Megatron's order, for one group.
        groups: how often that order is repeated: Megatron interleaves query, key and value by key/value head.
    """

    def __init__(self, adapters: Mapping[str, Adapter], widths: Mapping[str, int], groups: int) -> None:
        super().__init__()
        self.of = nn.ModuleDict(adapters)
        self.widths, self.groups = dict(widths), groups

    def forward(self, x_TBI: Tensor) -> Tensor:
        """[T, B, O] as the layer's own output is ordered."""
        found = {target: adapter(x_TBI) for target, adapter in self.of.items()}
        like = next(iter(found.values()))
        parts = [
            found[target].unflatten(-1, (self.groups, width)) if target in found else like.new_zeros(*like.shape[:2], self.groups, width)
            for target, width in self.widths.items()
        ]
        return torch.cat(parts, dim=-1).flatten(2)


def add_adapters(parts: Sequence[Part], config: Any, geometry: Geometry, topology: Topology, lora: LoraConfig) -> list[Half]:
    """Put fresh adapters on this process's layers; their outputs are added by hooks, so that the weights keep their names.

    Raises:
        ValueError: a target that the layers do not have.
    """
    check_targets(lora)
    halves: list[Half] = []
    for part in parts:
        for layer, number in zip(part.gpt.decoder.layers, part.layers, strict=True):
            for path, modules in LINEARS.items():
                targets = [target for target in targets_of(lora) if target in modules]
                if targets:
                    halves += _adapt(layer.get_submodule(path), number, modules, targets, config, geometry, topology, lora)
    return halves


def _adapt(
    linear: nn.Module, layer: int, modules: Sequence[str], targets: Sequence[str], config: Any, geometry: Geometry, topology: Topology, lora: LoraConfig
) -> list[Half]:
    adapters, halves, sequence = dict[str, Adapter](), list[Half](), topology.sizes.sequence_parallel
    for target in targets:
        cut, cuts_outputs = cut_of(target, geometry), TARGETS[target][1]
        inputs, outputs = (config.hidden_size, cut.width) if cuts_outputs else (cut.width, config.hidden_size)
        adapters[target] = Adapter(inputs, outputs, lora, cuts_outputs=cuts_outputs, sequence_parallel=sequence, device=topology.device)
        halves += _halves(adapters[target], layer, target, geometry, config.hidden_size, lora.rank)
    groups = geometry.heads.padded_groups // geometry.tp if "k_proj" in modules else 1
    widths = {t: (cut_of(t, geometry).width if TARGETS[t][1] else config.hidden_size) // groups for t in modules}
    fused = FusedAdapters(adapters, widths, groups)
    linear.add_module("adapters", fused)
    linear.register_forward_hook(partial(_add, fused))
    return halves


def _add(fused: FusedAdapters, linear: nn.Module, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor | None]:
    return output[0] + fused(inputs[0]), output[1]


def _halves(adapter: Adapter, layer: int, target: str, geometry: Geometry, hidden: int, rank: int) -> list[Half]:
    """The two matrices with their places in the whole; A gets its fresh values."""
    a, b = published_names(layer, target)
    cut, cuts_outputs = cut_of(target, geometry), TARGETS[target][1]
    if cuts_outputs:
        halves = [Half(a, adapter.a_RI, 0, 0, rank, False), Half(b, adapter.b_OR, 0, cut.start, cut.stop, True)]
    else:
        halves = [Half(a, adapter.a_RI, 1, cut.start, cut.stop, True), Half(b, adapter.b_OR, 0, 0, hidden, False)]
    with torch.no_grad():
        adapter.a_RI.copy_(halves[0].own(fresh(a, (rank, hidden if cuts_outputs else cut.whole))))
    for half in halves:  # Megatron's marks: counted once in norms; gradients of a part of the tokens, to be summed over the positions
        half.parameter.tensor_model_parallel = half.cut  # type: ignore[attr-defined]
        half.parameter.sequence_parallel = adapter.sequence_parallel and not half.cut  # type: ignore[attr-defined]
    return halves


def summed_over_positions(parameter: Tensor) -> bool:
    """Whether the tensor-parallel positions have different shares of a parameter's gradient: the connector's (each hears some clips), and of an adapter what
    sees some of the tokens. Other adapters have the whole gradient of their part."""
    return not hasattr(parameter, "tensor_model_parallel") or parameter.sequence_parallel  # type: ignore[attr-defined]


def is_cut(parameter: Tensor) -> bool:
    """Whether the tensor-parallel positions have different parts of a parameter."""
    return bool(getattr(parameter, "tensor_model_parallel", False))


def gather_whole(halves: Sequence[Half], values_of: Callable[[Half], Sequence[Tensor]], topology: Topology) -> dict[str, list[Tensor]]:
    """Whole matrices of all layers on the process that writes checkpoints, from tensors of the parameters' shapes; nothing elsewhere. All processes call this.

    Args:
        halves: of this process.
        values_of: the tensors of a half: its values, its gradient, its moments.
    """
    if topology.data > 0:  # copies hold the same
        return {}
    own = [(h.name, h.dim, h.start, [h.real(t) for t in values_of(h)]) for h in halves if (h.cut or topology.shard == 0) and h.stop > h.start]
    parts: list[Any] = [own]
    if topology.sizes.model > 1:
        parts = [None] * topology.sizes.model
        dist.gather_object(own, parts if topology.reads_data else None, dst=topology.leader, group=topology.model_group)
        if not topology.reads_data:
            return {}
    found: dict[str, list[tuple[int, int, list[Tensor]]]] = {}
    for name, dim, start, tensors in (entry for part in parts for entry in part):
        found.setdefault(name, []).append((start, dim, tensors))
    whole = {}
    for name, pieces in found.items():
        pieces.sort(key=lambda piece: piece[0])
        whole[name] = [torch.cat(each, dim=pieces[0][1]) for each in zip(*(tensors for _, _, tensors in pieces), strict=True)]
    return whole
