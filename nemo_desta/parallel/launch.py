"""How this process was started: alone, by torchrun, or by torchrun under Slurm."""

import os
from dataclasses import dataclass

from lightning.pytorch.utilities import rank_zero_only


@dataclass(frozen=True)
class Launch:
    """Processes of the run.

    Attributes:
        world: all.
        local: on this machine.
        external: they were started from outside (torchrun), so that none has to be started here.
        unconnected: processes that Slurm says it has, where nothing tells them of each other.
    """

    world: int = 1
    local: int = 1
    external: bool = False
    unconnected: int = 1

    @property
    def nodes(self) -> int:
        """Machines."""
        return max(self.world // self.local, 1)


def detect_launch() -> Launch:
    """From the environment that torchrun sets, or srun without it."""
    if "WORLD_SIZE" not in os.environ or "LOCAL_WORLD_SIZE" not in os.environ:
        alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
        return Launch(unconnected=int(os.environ.get("SLURM_NTASKS", "1")) if alone else 1)
    return Launch(int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"]), external=True)


def is_first_process() -> bool:
    """Whether this process speaks for all: they all take the same way, and a line is wanted once."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0  # from the environment, until Lightning's strategy knows better
