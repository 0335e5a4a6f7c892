"""Dividing a corpus by group (speaker, character, level, source file), so that nothing of a test group is heard in training."""

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping

SPLITS = ("train", "test")


def _rank(group: str, salt: str) -> bytes:
    return hashlib.sha256(f"{salt}\0{group}".encode()).digest()


def hashed_test_groups(group_sizes: Mapping[str, int], *, test_fraction: float, salt: str) -> set[str]:
    """Groups to hold out: the first ones in hash order, until about ``test_fraction`` of the clips is held out.

    A plain hash threshold may hold out nothing, or half of a corpus with few groups; this takes at least one group of a corpus that
    has two, never all, and passes over a group that would overshoot by more than it helps.

    Args:
        group_sizes: Number of clips of each group.
        test_fraction: Share of the clips, 0..1; 0 = none.
        salt: Corpus name and seed; another salt gives another choice.

    Returns:
        The test groups. A pure function of the arguments, whatever order the mapping has.
    """
    if test_fraction <= 0.0 or len(group_sizes) < 2:
        return set()
    want = test_fraction * sum(group_sizes.values())
    chosen: set[str] = set()
    have = 0
    for group in sorted(group_sizes, key=lambda g: _rank(g, salt)):
        if len(chosen) + 1 == len(group_sizes):
            break
        after = have + group_sizes[group]
        if abs(after - want) < abs(have - want):
            chosen.add(group)
            have = after
    if not chosen:  # every group is larger than twice the wish: the smallest one is the nearest to it
        chosen.add(min(group_sizes, key=lambda g: (group_sizes[g], _rank(g, salt))))
    return chosen


def stratified_test_groups(strata: Mapping[str, Hashable], *, test_fraction: float, salt: str, min_groups: int = 2) -> set[str]:
    """Groups to hold out so that every label is heard in both splits where it has enough groups.

    Args:
        strata: Label (sound class, style, ...) of each group.
        test_fraction: Share of the groups of each label; at least one of a label that has ``min_groups``.
        salt: Corpus name and seed.
        min_groups: A label with fewer groups stays in training as a whole.

    Returns:
        The test groups.
    """
    by_label: dict[Hashable, list[str]] = defaultdict(list)
    for group, label in strata.items():
        by_label[label].append(group)
    chosen: set[str] = set()
    for groups in by_label.values():
        if len(groups) < max(min_groups, 2) or test_fraction <= 0.0:
            continue
        count = min(len(groups) - 1, max(1, round(test_fraction * len(groups))))
        chosen.update(sorted(groups, key=lambda g: _rank(g, salt))[:count])
    return chosen


def assign_splits(items: Iterable[tuple[str, str | None]], *, test_fraction: float, salt: str) -> dict[str, str]:
    """The split of every group of a corpus.

    Args:
        items: ``(group, split)`` of every clip; the split is None where the recipe leaves the choice to the hash.
        test_fraction: Share of the clips without an own split that is held out.
        salt: Corpus name and seed.

    Returns:
        ``{group: "train" | "test"}``.

    Raises:
        ValueError: An unknown split, or a group whose clips ask for different splits.
    """
    named: dict[str, str] = {}
    sizes: dict[str, int] = defaultdict(int)
    for group, split in items:
        if split is None:
            sizes[group] += 1
        elif split not in SPLITS:
            raise ValueError(f"group {group!r} asks for the split {split!r}; use one of {SPLITS} or None")
        elif named.setdefault(group, split) != split:
            raise ValueError(f"group {group!r} asks for both {named[group]!r} and {split!r}: a group belongs to one split as a whole")
    mixed = sorted(named.keys() & sizes.keys())
    if mixed:
        raise ValueError(f"some clips of the groups {mixed[:5]} name a split and some do not: name it for all of a group's clips or for none")
    test = hashed_test_groups(sizes, test_fraction=test_fraction, salt=salt)
    named.update({group: "test" if group in test else "train" for group in sizes})
    return named


def check_disjoint(pairs: Iterable[tuple[str, str]]) -> None:
    """Assert that no group is in two splits. ``pairs`` are the ``(group, split)`` of finished clips."""
    seen: dict[str, str] = {}
    for group, split in pairs:
        assert seen.setdefault(group, split) == split, f"group {group!r} is in both {seen[group]!r} and {split!r}"
