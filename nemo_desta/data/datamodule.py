"""The training data as a Lightning data module."""

from typing import Any

import lightning.pytorch as pl
from lhotse import CutSet
from torch.utils.data import DataLoader, Dataset, Sampler

from nemo_desta.config import DataConfig
from nemo_desta.data.conversation import AudioLayout, Tokenizer
from nemo_desta.data.dataset import DestaDataset, StepBatch, training_units
from nemo_desta.data.indexed import IndexedDataset, IndexedStepSampler
from nemo_desta.data.sampler import StepSampler
from nemo_desta.data.taps_cache import TapsCache
from nemo_desta.manifests.store import IndexedStore
from nemo_desta.parallel.topology import Topology


class DestaDataModule(pl.LightningDataModule):
    """Batches of one optimiser step each, continuing where a checkpoint stopped.

    Args:
        cuts: training cuts with self-generated supervisions: in memory, or an indexed store for sets that do not fit there.
        tokenizer, layout: of the model.
        cfg: the data section of the configuration.
        max_steps: optimiser steps of the whole run.
        seed: of the data order.
        cache: encoder taps of clips heard before.
        topology: where this process stands among those that share the model; None = every process has its own rows.
    """

    def __init__(
        self,
        cuts: CutSet | IndexedStore,
        tokenizer: Tokenizer,
        layout: AudioLayout,
        cfg: DataConfig,
        *,
        max_steps: int,
        seed: int,
        cache: TapsCache | None = None,
        topology: Topology | None = None,
    ) -> None:
        super().__init__()
        self.topology = topology
        self.units = cuts if isinstance(cuts, IndexedStore) else training_units(cuts, cfg.rows_per_clip)
        self.cfg, self.max_steps, self.seed = cfg, max_steps, seed
        self.consumed_steps = 0
        self.dataset = DestaDataset(
            tokenizer,
            layout,
            micro_batch_tokens=cfg.micro_batch_tokens,
            max_tokens=cfg.max_tokens,
            overlong=cfg.overlong,
            transcript_drop_prob=cfg.transcript_drop_prob,
            seed=seed,
            cache=cache,
        )

    @property
    def num_rows(self) -> int:
        """Rows of the training set."""
        return self.units.total_rows if isinstance(self.units, IndexedStore) else sum(len(unit.supervisions) - 1 for unit in self.units)

    def train_dataloader(self) -> DataLoader[Any]:
        """Map-style in Lhotse's manner: the sampler runs here, audio is read in the workers. One process of every copy of the model reads."""
        if self.topology is not None and not self.topology.reads_data:
            return DataLoader(_Nothing(self.max_steps), batch_size=None)
        dataset, sampler = self._dataset_and_sampler()
        workers = self.cfg.num_workers
        return DataLoader(
            dataset, batch_size=None, sampler=sampler, num_workers=workers, prefetch_factor=4 if workers else None, persistent_workers=bool(workers)
        )

    def _dataset_and_sampler(self) -> tuple[Dataset[StepBatch], Sampler[Any]]:
        rank, world_size = self._share()
        common: dict[str, Any] = {
            "batch_rows": self.cfg.batch_rows,
            "num_buckets": self.cfg.num_buckets,
            "seed": self.seed,
            "rank": rank,
            "world_size": world_size,
            "start_step": self.consumed_steps,
            "num_steps": self.max_steps,
        }
        if not isinstance(self.units, IndexedStore):
            return self.dataset, StepSampler(self.units, **common)
        rows_per_clip = self.cfg.rows_per_clip
        return IndexedDataset(self.units, self.dataset, rows_per_clip=rows_per_clip), IndexedStepSampler(self.units, rows_per_clip=rows_per_clip, **common)

    def _share(self) -> tuple[int, int]:
        """(number, count) of the shares of a global batch: of processes, or of copies of the model."""
        if self.topology is not None:
            return self.topology.data, self.topology.data_size
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        """Micro-batches move one by one, when their turn comes."""
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The data's position is the number of optimiser steps taken, whatever the workers have prefetched."""
        return {"consumed_steps": self.trainer.global_step if self.trainer else self.consumed_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.consumed_steps = int(state_dict["consumed_steps"])


class _Nothing(Dataset[StepBatch]):
    """As many steps as the reader has, without data: the training step gets its part from the reader."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> StepBatch:
        if index >= self.steps:
            raise IndexError(index)
        return StepBatch([], [])
