"""``results.json``: the figures of a run in one file, gathered from what its stages left behind."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemo_desta.evaluation.goals import check_goals

logger = logging.getLogger(__name__)


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where the file is missing or not one (logged)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, json.JSONDecodeError) as error:
        logger.warning("%s cannot be read and counts as missing: %s", path, error)
        return None
    return content if isinstance(content, dict) else None


def collect_results(run_dir: Path, summary: Mapping[str, Any], retention: Mapping[str, Any] | None) -> dict[str, Any]:
    """Put the results of a run together.

    Args:
        run_dir: holds ``targets/manifest.json`` and ``stages.json``; what is missing there becomes null, with a note.
        summary: what the benchmark's `aggregate` gave.
        retention: what `nemo_desta.evaluation.retention.compare` gave; None where it was not checked.

    Returns:
        goals (`nemo_desta.evaluation.goals`), attributes, retention, targets, minutes, peak_rss_gib; left_out, settings and notes beside them.
    """
    notes: list[str] = []
    minutes, peak = _stages(run_dir / "stages.json", notes)
    if retention is None:
        notes.append("language retention was not checked")
    results = {
        "attributes": summary["attributes"],
        "retention": {key: retention[key] for key in ("identical", "prompts", "different")} if retention else None,
        "targets": _targets(run_dir / "targets" / "manifest.json", notes),
        "minutes": minutes,
        "peak_rss_gib": peak,
        "left_out": summary.get("left_out"),
        "settings": summary.get("settings"),
        "notes": notes,
    }
    return {"goals": check_goals(results), **results}


def _targets(path: Path, notes: list[str]) -> dict[str, Any] | None:
    manifest = read_json(path)
    if manifest is None:
        notes.append("targets/manifest.json is missing: no figures of the training targets")
        return None
    counts = manifest.get("targets") or {}
    absent = [key for key in ("kept", "asked", "yield_by_kind", "yield_by_attribute") if key not in counts]
    if absent:
        notes.append(f"targets/manifest.json lacks {', '.join(absent)}")
    shares = {f"yield_by_{by}": _yields(counts.get(f"yield_by_{by}")) for by in ("kind", "attribute")}
    return {"rows": counts.get("kept"), "asked": counts.get("asked"), **shares, "rejected_by_filter": counts.get("rejected_by_filter")}


def _yields(groups: dict[str, dict[str, Any]] | None) -> dict[str, float] | None:
    """Name -> share of the rows that the filters kept."""
    return {name: float(group["yield"]) for name, group in groups.items()} if groups else None


def _stages(path: Path, notes: list[str]) -> tuple[dict[str, float | None] | None, float | None]:
    """Minutes of each stage and the highest peak memory (GiB) of all of them."""
    stages = (read_json(path) or {}).get("stages")
    if not isinstance(stages, dict) or not stages:
        notes.append("stages.json is missing: no times and no peak memory (the demo's driver writes it)")
        return None, None
    minutes = {str(name): stage.get("minutes") for name, stage in stages.items()}
    peaks = [float(stage["peak_rss_gib"]) for stage in stages.values() if stage.get("peak_rss_gib") is not None]
    return minutes, max(peaks, default=None)
