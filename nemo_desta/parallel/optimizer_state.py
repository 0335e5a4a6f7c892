"""The optimiser's state of a sharded model as that of one process, and back: what a checkpoint holds does not depend on the layout.

A saved state knows its parameters by number: first the connector's, then the adapters' in the order of `lora_table.whole_shapes`.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from nemo_desta.parallel.lora import Half, gather_whole
from nemo_desta.parallel.topology import Topology


def whole_state(state: dict[str, Any], halves: Sequence[Half], names: Sequence[str], topology: Topology) -> dict[str, Any]:
    """On the process that writes checkpoints, the state that an optimiser of the whole model would have; elsewhere this process's own. All processes call this.

    Args:
        state: of this process's optimiser, whose parameters are the connector's (on the first stage) and then ``halves``.
        names: of all adapter matrices in their order.
    """
    (group,) = state["param_groups"]
    own, first = state["state"], len(group["params"]) - len(halves)
    if not own:  # no step was taken
        return {**state, "param_groups": [{**group, "params": list(range(first + len(names)))}]}
    entry_of = {half.name: own[first + i] for i, half in enumerate(halves)}
    keys = [key for key, value in own[first].items() if isinstance(value, Tensor) and value.dim() > 0]
    rest = {key: value for key, value in own[first].items() if key not in keys}  # the number of steps
    whole = gather_whole(halves, lambda half: [entry_of[half.name][key] for key in keys], topology)
    if not whole:
        return state
    # A count of steps each: the optimiser adds to it in place, so that a shared one, which pickle and `load_state_dict` keep shared, would run ahead.
    adapters = {first + i: {**deepcopy(rest), **dict(zip(keys, whole[name], strict=True))} for i, name in enumerate(names)}
    connector = {i: own[i] for i in range(first)}
    return {"state": {**connector, **adapters}, "param_groups": [{**group, "params": list(range(first + len(names)))}]}


def own_state(state: dict[str, Any], halves: Sequence[Half], names: Sequence[str], topology: Topology) -> dict[str, Any]:
    """This process's part of a whole state; see `whole_state`."""
    (group,) = state["param_groups"]
    first = len(group["params"]) - len(names)
    number_of = {name: first + i for i, name in enumerate(names)}
    mine = [*(range(first) if topology.is_first else ()), *(number_of[half.name] for half in halves)]
    entries = {i: state["state"][number] for i, number in enumerate(mine) if number in state["state"]}
    begin = len(mine) - len(halves)
    for i, half in enumerate(halves):
        if begin + i in entries:
            entries[begin + i] = {key: _part(half, value) for key, value in entries[begin + i].items()}
    return {"state": entries, "param_groups": [{**group, "params": list(range(len(mine)))}]}


def _part(half: Half, value: Any) -> Any:
    return half.own(value) if isinstance(value, torch.Tensor) and value.dim() > 0 else value
