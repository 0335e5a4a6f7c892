"""How many answers became targets: by prompt kind, attribute, domain, language and filter."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nemo_desta.generation.engines.base import Completion
from nemo_desta.generation.filters import FILTERS
from nemo_desta.generation.plan import TargetRow
from nemo_desta.generation.review import REASON as REVIEW


def summary(plan: Sequence[TargetRow], answers: Mapping[str, Completion], reasons: Mapping[str, str | None]) -> dict[str, Any]:
    """Counts for the manifest.

    Args:
        plan: all rows that were asked.
        answers: row id -> answer.
        reasons: row id -> name of the filter that rejected it, or None.

    Returns:
        ``asked``, ``kept``, ``yield`` (0..1), ``tokens`` (mean of the kept answers), ``rejected_by_filter`` (every filter and the review, zero included) and
        ``yield_by_{kind,attribute,domain,language}``: name -> {asked, kept, yield}.
    """
    kept = [row for row in plan if reasons[row.row_id] is None]
    tokens = [answers[row.row_id].num_tokens for row in kept]
    groups: dict[str, Callable[[TargetRow], str | None]] = {
        "kind": lambda row: row.prompt.kind,
        "attribute": lambda row: None if row.others else row.prompt.attribute,
        "domain": lambda row: row.domain,
        "language": lambda row: row.attributes.get("language"),
    }
    return {
        **_counts(plan, reasons),
        "tokens": sum(tokens) / len(tokens) if tokens else 0.0,
        "rejected_by_filter": {name: sum(reason == name for reason in reasons.values()) for name in (*(name for name, _ in FILTERS), REVIEW)},
        **{f"yield_by_{name}": _grouped(plan, reasons, key) for name, key in groups.items()},
    }


def merged(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The summary of a whole from those of its parts; the same as `summary` of all rows (to rounding)."""
    asked, kept = (sum(part[name] for part in parts) for name in ("asked", "kept"))
    filters = {name: sum(part["rejected_by_filter"][name] for part in parts) for name in parts[0]["rejected_by_filter"]}
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for name in (key for key in parts[0] if key.startswith("yield_by_")):
        members = sorted({member for part in parts for member in part[name]})
        groups[name] = {member: _rates([part[name][member] for part in parts if member in part[name]]) for member in members}
    tokens = sum(part["tokens"] * part["kept"] for part in parts) / kept if kept else 0.0
    return {**_rates([{"asked": asked, "kept": kept}]), "tokens": tokens, "rejected_by_filter": filters, **groups}


def _rates(counts: Sequence[Mapping[str, int]]) -> dict[str, Any]:
    asked, kept = (sum(one[name] for one in counts) for name in ("asked", "kept"))
    return {"asked": asked, "kept": kept, "yield": kept / asked if asked else 0.0}


def _counts(rows: Sequence[TargetRow], reasons: Mapping[str, str | None]) -> dict[str, Any]:
    return _rates([{"asked": len(rows), "kept": sum(reasons[row.row_id] is None for row in rows)}])


def _grouped(plan: Sequence[TargetRow], reasons: Mapping[str, str | None], key: Callable[[TargetRow], str | None]) -> dict[str, dict[str, Any]]:
    names = sorted({name for row in plan if (name := key(row)) is not None})
    return {name: _counts([row for row in plan if key(row) == name], reasons) for name in names}
