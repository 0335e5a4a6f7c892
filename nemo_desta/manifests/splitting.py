"""Dividing a manifest by speaker or source, so that nothing of one part is heard in another."""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from nemo_desta.corpora.splits import hashed_test_groups
from nemo_desta.manifests.records import Record, custom, further_of, group_of, rows_of, source_of
from nemo_desta.manifests.sinks import Sink

logger = logging.getLogger(__name__)

WAYS = ("group", "speaker", "source", "cut")


def group_key(record: Record, by: str) -> str:
    """What a cut belongs to.

    Args:
        by: "group" = the recipe's group, else the speaker, else the source recording; "speaker"; "source" (recording, or the parent of a window); "cut"; or the
            name of an attribute of the cut's or of the source supervision's ``custom``.

    Raises:
        ValueError: the cut has no such attribute.
    """
    if by == "group":
        return group_of(record)
    dataset = custom(record, "dataset", "")
    if by == "speaker":
        speaker = source_of(record).get("speaker")
        return f"{dataset}/{speaker}" if speaker else f"{dataset}/unknown speaker of {record['id']}"
    if by == "source":
        return f"{dataset}/{custom(record, 'parent_id') or (record.get('recording') or {}).get('id') or record['id']}"
    if by == "cut":
        return str(record["id"])
    value = custom(record, by, (source_of(record).get("custom") or {}).get(by))
    if value is None:
        raise ValueError(f"cut {record['id']} has no {by!r}: divide by one of {', '.join(WAYS)}, or by an attribute that every cut has")
    return f"{by}/{value}"


def group_sizes(records: Iterable[Record], by: str) -> Counter[str]:
    """Cuts of every group."""
    return Counter(group_key(record, by) for record in records)


def assign(sizes: Mapping[str, int], fractions: Mapping[str, float], *, seed: int) -> dict[str, str]:
    """The part of every group: a pure function of the arguments, whatever the order of the mapping.

    The parts but the largest are filled one after another with groups in hash order, up to about their share of the cuts; the largest takes the rest.

    Raises:
        ValueError: the fractions do not add up to 1, or a part gets no group.
    """
    if not fractions or abs(sum(fractions.values()) - 1) > 1e-6 or min(fractions.values()) < 0:
        raise ValueError(f"fractions {dict(fractions)}: they must be at least 0 and add up to 1")
    rest = max(fractions, key=lambda name: fractions[name])
    assigned: dict[str, str] = {}
    left, total = dict(sizes), sum(sizes.values())
    for name, fraction in fractions.items():
        if name != rest and fraction > 0:
            share = min(1.0, fraction * total / max(1, sum(left.values())))
            chosen = hashed_test_groups(left, test_fraction=share, salt=f"{seed}/{name}")
            if not chosen:
                raise ValueError(f"no group is left for {name!r}: {len(sizes)} groups cannot be divided into {len(fractions)} parts, divide by something finer")
            assigned |= dict.fromkeys(chosen, name)
            left = {group: n for group, n in left.items() if group not in chosen}
    return assigned | dict.fromkeys(left, rest)


def further_groups(stream: Callable[[], Iterable[Record]], by: str) -> dict[str, str]:
    """The group of every clip that a row of another cut hears, by its id; empty where no row is about several clips.

    Args:
        stream: begins the manifest anew; it is read once, or twice where there are such rows.
    """
    wanted = {clip["id"] for record in stream() for row in rows_of(record) for clip in further_of(row)}
    return {record["id"]: group_key(record, by) for record in stream() if record["id"] in wanted} if wanted else {}


def split(records: Iterable[Record], sinks: Mapping[str, Sink], parts: Mapping[str, str], by: str, further: Mapping[str, str] | None = None) -> int:
    """Write every cut to the part of its group, with its ``custom.split``.

    Args:
        further: see `further_groups`. A row that hears clips of two parts is left out: it would carry one part's sound into another.

    Returns:
        Rows that were left out.
    """
    lost = 0
    for record in records:
        part = parts[group_key(record, by)]
        foreign = [row for row in rows_of(record) if any(parts[further[clip["id"]]] != part for clip in further_of(row) if further and clip["id"] in further)]
        if foreign:
            lost += len(foreign)
            record = {**record, "supervisions": [s for s in record["supervisions"] if s not in foreign]}
        sinks[part].write({**record, "custom": {**(record.get("custom") or {}), "split": part}})
    return lost


def order_key(seed: int, name: str) -> int:
    """A number that decides who is drawn: a pure function of the seed and the cut, not of its place."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest(), "big")


def describe_parts(sizes: Mapping[str, int], parts: Mapping[str, str]) -> dict[str, Any]:
    """Groups and cuts by part."""
    found: dict[str, Any] = {}
    for group, part in parts.items():
        entry = found.setdefault(part, {"groups": 0, "cuts": 0})
        entry["groups"] += 1
        entry["cuts"] += sizes[group]
    return found
