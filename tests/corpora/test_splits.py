"""Dividing by group: no group in two splits, pure functions of the data, sensible sizes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_desta.corpora.splits import assign_splits, check_disjoint, hashed_test_groups, stratified_test_groups

SIZES = st.dictionaries(st.text(min_size=1, max_size=6), st.integers(1, 50), min_size=2, max_size=40)


@given(SIZES, st.floats(0.05, 0.5))
def test_hash_holds_out_something_but_not_all(sizes: dict[str, int], fraction: float) -> None:
    chosen = hashed_test_groups(sizes, test_fraction=fraction, salt="x")
    assert 0 < len(chosen) < len(sizes)
    backwards = dict(reversed(sizes.items()))
    assert chosen == hashed_test_groups(backwards, test_fraction=fraction, salt="x")


def test_hash_comes_near_the_wished_share() -> None:
    sizes = {f"speaker{i}": 10 for i in range(200)}
    chosen = hashed_test_groups(sizes, test_fraction=0.1, salt="a")
    assert sum(sizes[g] for g in chosen) == 200
    assert chosen != hashed_test_groups(sizes, test_fraction=0.1, salt="b")


def test_a_dominant_group_stays_in_training() -> None:
    sizes = {"hero": 900, "a": 30, "b": 40, "c": 30}
    for seed in range(20):
        assert "hero" not in hashed_test_groups(sizes, test_fraction=0.1, salt=str(seed))


def test_nothing_is_held_out_of_one_group_or_at_fraction_zero() -> None:
    assert hashed_test_groups({"only": 5}, test_fraction=0.1, salt="") == set()
    assert hashed_test_groups({"a": 5, "b": 5}, test_fraction=0.0, salt="") == set()


def test_stratified_choice_gives_every_label_to_both_splits() -> None:
    strata = {f"dog{i}": "dog" for i in range(10)} | {f"cat{i}": "cat" for i in range(3)} | {"owl0": "owl"}
    chosen = stratified_test_groups(strata, test_fraction=0.2, salt="s")
    labels = [strata[g] for g in chosen]
    assert labels.count("dog") == 2 and labels.count("cat") == 1 and labels.count("owl") == 0


def test_assign_splits_takes_named_splits_and_hashes_the_rest() -> None:
    items = [("anna", "test"), ("anna", "test"), ("bert", "train")] + [(f"g{i}", None) for i in range(20)]
    splits = assign_splits(items, test_fraction=0.1, salt="s")
    assert splits["anna"] == "test" and splits["bert"] == "train"
    assert sum(splits[f"g{i}"] == "test" for i in range(20)) == 2


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([("a", "train"), ("a", "test")], "belongs to one split"),
        ([("a", "dev")], "'dev'"),
        ([("a", "train"), ("a", None)], "some do not"),
    ],
)
def test_contradictions_are_errors(items: list[tuple[str, str | None]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        assign_splits(items, test_fraction=0.1, salt="")


def test_check_disjoint() -> None:
    check_disjoint([("a", "train"), ("b", "test"), ("a", "train")])
    with pytest.raises(AssertionError, match="'a' is in both"):
        check_disjoint([("a", "train"), ("a", "test")])
