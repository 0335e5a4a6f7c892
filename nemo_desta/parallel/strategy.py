"""Lightning's side of the parallel training: it starts nothing and wraps nothing.

The groups are made before the model, and the steps reduce their own gradients.
Checkpoints are those of one process: the first one writes the connector, the adapters of all stages and their optimiser state, none of which depends on the
layout, so that a run goes on under another one.
"""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch.optim import Optimizer

from nemo_desta.parallel.lora import Half
from nemo_desta.parallel.optimizer_state import own_state, whole_state
from nemo_desta.parallel.topology import Topology


class MegatronStrategy(DDPStrategy):
    """Tensor-parallel pipeline stages.

    Args:
        topology: made before the trainer.
    """

    def __init__(self, topology: Topology, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.topology = topology

    @property
    def root_device(self) -> torch.device:
        """Of this process."""
        return self.topology.device

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """Copies of the model, not processes, have rows of their own."""
        return {"num_replicas": self.topology.data_size, "rank": self.topology.data}

    def configure_ddp(self) -> None:
        """Nothing is wrapped."""

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Of the connector, and of the adapters of all processes; whole on the first one. All processes call this."""
        state = super().optimizer_state(optimizer)
        return whole_state(state, self._halves(optimizer), self._adapter_names, self.topology) if self._adapter_names else state

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """This process's part; without adapters later stages train nothing."""
        if self._adapter_names:
            states = zip(self.optimizers, checkpoint["optimizer_states"], strict=True)
            own = [own_state(state, self._halves(optimizer), self._adapter_names, self.topology) for optimizer, state in states]
            super().load_optimizer_state_dict({**checkpoint, "optimizer_states": own})
        elif self.topology.is_first:
            super().load_optimizer_state_dict(checkpoint)

    @property
    def _adapter_names(self) -> list[str]:
        return list(self.lightning_module.model.backbone.adapter_shapes)  # type: ignore[union-attr,arg-type]

    def _halves(self, optimizer: Optimizer) -> list[Half]:
        """This process's adapters in the order of its optimiser."""
        half_of = {id(half.parameter): half for half in self.lightning_module.model.backbone.adapters}  # type: ignore[union-attr]
        return [half_of[id(parameter)] for parameter in optimizer.param_groups[0]["params"] if id(parameter) in half_of]
