"""The data of a step is a function of (seed, step): not of when the run was restarted, nor of the number of processes."""

import pytest
from lhotse import CutSet
from lhotse.testing.dummies import dummy_cut, dummy_supervision

from nemo_desta.data.sampler import StepSampler, buckets_that_fill


@pytest.fixture(scope="module")
def cuts() -> CutSet:
    return CutSet.from_cuts(
        dummy_cut(i, start=0, duration=1 + (i * 37 % 90) / 10, supervisions=[dummy_supervision(0), dummy_supervision(1)]) for i in range(100)
    )


def ids(sampler: StepSampler) -> list[list[str]]:
    return [[c.id for c in batch] for batch in sampler]


@pytest.mark.parametrize("buckets", [1, 4])
def test_a_restarted_sampler_goes_on_where_the_other_was(cuts, buckets):
    common = {"batch_rows": 8, "num_buckets": buckets, "seed": 3, "num_steps": 40}  # more than three epochs
    whole = ids(StepSampler(cuts, **common))
    assert len(whole) == 40
    for start in (0, 7, 12, 39):
        assert ids(StepSampler(cuts, start_step=start, **common)) == whole[start:]


def test_ranks_share_the_global_batches(cuts):
    common = {"batch_rows": 8, "num_buckets": 2, "seed": 3, "num_steps": 15}
    whole = ids(StepSampler(cuts, **common))
    parts = [ids(StepSampler(cuts, rank=r, world_size=4, **common)) for r in range(4)]
    for step, batch in enumerate(whole):
        assert sorted(batch) == sorted(c for part in parts for c in part[step])


def test_an_epoch_repeats_nothing_and_epochs_differ(cuts):
    batches = ids(StepSampler(cuts, batch_rows=10, num_buckets=1, seed=0, num_steps=20))
    first, second = [c for b in batches[:10] for c in b], [c for b in batches[10:] for c in b]
    assert sorted(first) == sorted(second) == sorted(c.id for c in cuts)
    assert first != second


def test_too_small_a_set_is_an_error(cuts):
    with pytest.raises(ValueError, match=r"fewer than data\.batch_rows=500"):
        StepSampler(cuts, batch_rows=500, num_buckets=1, seed=0)
    with pytest.raises(ValueError, match=r"data\.batch_rows=0"):
        StepSampler(cuts, batch_rows=0, num_buckets=1, seed=0)


def small_set(rows: int, *, alike: bool = False, rows_each: int = 1) -> CutSet:
    supervisions = [dummy_supervision(i) for i in range(rows_each + 1)]
    return CutSet.from_cuts(dummy_cut(i, start=0, duration=2.0 if alike else 1 + (i * 37 % 90) / 10, supervisions=supervisions) for i in range(rows))


@pytest.mark.parametrize(("rows", "batch_rows", "buckets"), [(18, 16, 3), (4, 2, 8), (16, 16, 8), (3, 1, 8), (40, 8, 16)])
@pytest.mark.parametrize("alike", [False, True], ids=["mixed lengths", "one length"])
def test_a_small_set_fills_a_batch_in_every_epoch(rows, batch_rows, buckets, alike, caplog):
    with caplog.at_level("INFO", logger="nemo_desta"):
        sampler = StepSampler(small_set(rows, alike=alike), batch_rows=batch_rows, num_buckets=buckets, seed=0, num_steps=12)
    assert [len(batch) for batch in ids(sampler)] == [batch_rows] * 12
    assert len([r for r in caplog.records if "num_buckets" in r.message]) == 1


def test_a_small_set_whose_rows_travel_together_fills_a_batch():
    sampler = StepSampler(small_set(3, rows_each=20), batch_rows=5, num_buckets=8, seed=0, num_steps=6)
    assert sampler.num_buckets == 3 and all(ids(sampler))


def test_buckets_depend_on_the_set_alone():
    assert buckets_that_fill(8, cuts=10_000, rows=10_000, batch_rows=96) == 8
    assert buckets_that_fill(8, cuts=18, rows=18, batch_rows=16) == 1
    assert buckets_that_fill(8, cuts=300, rows=900, batch_rows=96) == 4
    assert buckets_that_fill(8, cuts=2, rows=900, batch_rows=9) == 2
