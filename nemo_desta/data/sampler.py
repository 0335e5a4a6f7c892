"""Which rows an optimiser step sees: a pure function of (seed, epoch, step), whatever the workers and ranks (contract C6).

Every process walks the same Lhotse sampler over *global* batches and takes its own share of each, so the data of a step does not change with the
number of processes. To resume, the sampler is replayed without reading any audio (about 10,000 cuts a second): right for sets that fit in memory.
"""

import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.dataset import DynamicBucketingSampler, DynamicCutSampler
from lhotse.dataset.sampling.base import SamplingConstraint
from torch.utils.data import Sampler

logger = logging.getLogger(__name__)


@dataclass
class RowConstraint(SamplingConstraint):
    """A fixed number of rows a batch; buckets by audio duration, which is what encoder and connector pad to.

    Cuts travel with all their rows, so a batch may overshoot by ``rows_per_clip - 1`` rows.
    """

    max_rows: int
    rows: int = 0

    def add(self, example: Cut) -> None:
        self.rows += len(example.supervisions) - 1

    def exceeded(self) -> bool:
        return self.rows > self.max_rows

    def close_to_exceeding(self) -> bool:
        return self.rows >= self.max_rows

    def reset(self) -> None:
        self.rows = 0

    def measure_length(self, example: Cut) -> float:
        return float(example.duration)

    def is_active(self) -> bool:
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"max_rows": self.max_rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.max_rows = state_dict["max_rows"]


def buckets_that_fill(num_buckets: int, *, cuts: int, rows: int, batch_rows: int) -> int:
    """Duration buckets of a set: as many as are asked for, but each with two global batches on average, so that a small set still fills a batch."""
    return max(1, min(num_buckets, cuts, rows // (2 * batch_rows)))


class StepSampler(Sampler[CutSet]):
    """Stream of the cuts of this rank's part of every global batch.

    Args:
        cuts: training units; each has a source supervision and at least one row.
        batch_rows: rows of a global batch.
        num_buckets: duration buckets; 1 = none. A small set gets fewer (`buckets_that_fill`).
        seed: of the order.
        rank, world_size: data-parallel position.
        start_step: number of global batches already consumed by the run.
        num_steps: global batches of the whole run; None = without end.

    Raises:
        ValueError: fewer rows than one global batch holds, or a batch of no rows.
    """

    def __init__(
        self,
        cuts: CutSet,
        *,
        batch_rows: int,
        num_buckets: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
        num_steps: int | None = None,
    ) -> None:
        super().__init__()
        if batch_rows < 1:
            raise ValueError(f"data.batch_rows={batch_rows}: it must be at least 1")
        rows_of = [len(c.supervisions) - 1 for c in cuts]
        rows = sum(rows_of)
        if rows < batch_rows:
            raise ValueError(f"the training set has {rows} rows, fewer than data.batch_rows={batch_rows}: write more targets or lower data.batch_rows")
        buckets = buckets_that_fill(num_buckets, cuts=len(rows_of), rows=rows, batch_rows=batch_rows)
        if buckets < num_buckets:
            logger.info("%d rows fill %d of data.num_buckets=%d duration buckets at data.batch_rows=%d", rows, buckets, num_buckets, batch_rows)
        self.cuts, self.batch_rows, self.num_buckets, self.seed = cuts, batch_rows, buckets, seed
        self.rank, self.world_size, self.start_step, self.num_steps = rank, world_size, start_step, num_steps

    def _epoch(self, epoch: int) -> Iterator[CutSet]:
        # The set is shuffled as a whole before it is bucketed: Lhotse's own shuffling is a reservoir inside its buffer.
        cuts = self.cuts.shuffle(rng=random.Random(f"{self.seed}/{epoch}"))
        common = {"constraint": RowConstraint(self.batch_rows), "seed": self.seed, "world_size": 1, "rank": 0, "drop_last": True}
        if self.num_buckets > 1:
            sampler = DynamicBucketingSampler(cuts.to_eager(), num_buckets=self.num_buckets, shuffle=True, sync_buckets=False, **common)
        else:
            sampler = DynamicCutSampler(cuts, shuffle=False, **common)
        sampler.set_epoch(epoch)
        yield from sampler

    def global_batches(self) -> Iterator[tuple[int, CutSet]]:
        """(epoch, cuts) of every step of the run from `start_step` on."""
        step, epoch = 0, 0
        while True:
            first = step
            for cuts in self._epoch(epoch):
                if step == self.num_steps:
                    return
                if step >= self.start_step:
                    yield epoch, cuts
                step += 1
            assert step > first, "an epoch without a single full batch"
            epoch += 1

    def __len__(self) -> int:
        """Steps of the whole run: a resumed loop counts from where it stopped."""
        if self.num_steps is None:
            raise TypeError("a sampler without end has no length")
        return self.num_steps

    def __iter__(self) -> Iterator[CutSet]:
        for epoch, cuts in self.global_batches():
            mine = [_stamp(c, epoch) for c in list(cuts)[self.rank :: self.world_size]]
            yield CutSet.from_cuts(mine)


def _stamp(cut: Cut, epoch: int) -> Cut:
    """Tell the dataset the epoch, on which the transcript dropout of a row depends."""
    return cut.with_custom("epoch", epoch)
