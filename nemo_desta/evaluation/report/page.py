"""Renders the report of a run from what lies in its ``eval`` directory; calls no model, so it can be repeated whenever a stage adds its figures."""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
from lhotse.cut import MonoCut

from nemo_desta.corpora.manifests import read_cuts
from nemo_desta.evaluation.benchmarks.base import NO_AUDIO, SHUFFLED, WITH_AUDIO
from nemo_desta.evaluation.report import plots
from nemo_desta.evaluation.report.clips import write_clips
from nemo_desta.evaluation.report.scalars import read_curve
from nemo_desta.evaluation.results import collect_results, read_json
from nemo_desta.jsonl import text_lines
from nemo_desta.provenance import write_json_atomic

logger = logging.getLogger(__name__)

CONDITIONS = (WITH_AUDIO, SHUFFLED, NO_AUDIO)
LOSS_TAG = "train/loss"


def write_report(run_dir: Path, *, find_cut: Callable[[str], MonoCut | None] | None = None, clips: int = 10) -> dict[str, Any]:
    """Write ``<run_dir>/report``: results.json, report.html, report.md, figures/ and clips/.

    Args:
        run_dir: holds ``eval/summary.json`` and ``eval/scored.jsonl``; ``eval/retention.json``, ``eval/manifest.json``, ``targets/manifest.json``,
            ``train`` (TensorBoard events) and ``stages.json`` are used where they are there.
        find_cut: cut id -> cut; by default looked up in ``corpus/cuts_test.jsonl.gz``.
        clips: how many playable clips.

    Returns:
        What results.json holds.

    Raises:
        ValueError: the run was not evaluated yet.
    """
    summary = read_json(run_dir / "eval" / "summary.json")
    scored_path = run_dir / "eval" / "scored.jsonl"
    if summary is None or not scored_path.is_file():
        raise ValueError(f"{run_dir} holds no evaluation (eval/summary.json, eval/scored.jsonl): run examples/evaluate.py first")
    rows = [json.loads(line) for line in text_lines(scored_path)]
    retention = read_json(run_dir / "eval" / "retention.json")
    manifest = read_json(run_dir / "eval" / "manifest.json")
    results = {**collect_results(run_dir, summary, retention), "manifest": manifest}
    folder = run_dir / "report"
    context = {
        "results": results,
        "retention": retention,
        "manifest": manifest or {},
        "figures": _figures(run_dir, results, folder / "figures"),
        "clips": write_clips(rows, find_cut or _finder(run_dir), folder / "clips", count=clips, seed=int((summary.get("settings") or {}).get("seed", 0))),
        "conditions": [{"key": c, "label": plots.LABELS[c], "colour": plots.COLOURS[c]} for c in CONDITIONS],
        "recipe": ((manifest or {}).get("config") or {}).get("name") or run_dir.name,
    }
    write_json_atomic(folder / "results.json", results)
    for name, template in (("report.html", "report.html.j2"), ("report.md", "report.md.j2")):
        (folder / name).write_text(environment().get_template(template).render(context), encoding="utf-8")
    logger.info("the report is %s", folder / "report.html")
    return results


def _finder(run_dir: Path) -> Callable[[str], MonoCut | None]:
    path = run_dir / "corpus" / "cuts_test.jsonl.gz"
    if not path.is_file():
        logger.warning("%s is missing: the report has no playable clips", path)
        return lambda _: None
    cuts = {cut.id: cut for cut in read_cuts(path)}
    return cuts.get


def _figures(run_dir: Path, results: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Draw the figures; paths are relative to the page."""
    attributes = results["attributes"]
    plots.plot_accuracy(attributes, folder / "accuracy.svg")
    confusions = {}
    for name, summary in sorted(attributes.items(), key=lambda pair: len(pair[1]["values"])):  # the small ones first: they share a line
        counts = summary.get("confusion", {}).get(WITH_AUDIO)
        if counts:
            plots.plot_confusion(name, counts, folder / f"confusion_{name}.svg")
            confusions[name] = f"figures/confusion_{name}.svg"
    curve = read_curve(run_dir / "train", LOSS_TAG)
    if curve:
        plots.plot_loss(curve, folder / "loss.svg")
    else:
        results["notes"].append(f"no TensorBoard scalar {LOSS_TAG!r} below train/: no loss curve")
    loss = {"path": "figures/loss.svg", "steps": curve[-1][0], "first": curve[0][1], "last": curve[-1][1]} if curve else None
    return {"accuracy": "figures/accuracy.svg", "confusions": confusions, "loss": loss}


def environment() -> jinja2.Environment:
    """The templates with their filters."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=lambda name: bool(name) and ".html" in str(name),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"percent": _percent, "interval": _interval, "title": plots.title, "number": _number, "cell": _markdown_cell, "figure": _figure}
    return made


def _percent(share: float | None, digits: int = 1) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def _interval(bounds: tuple[float, float] | None) -> str:
    return "–" if not bounds else f"{100 * bounds[0]:.1f} – {100 * bounds[1]:.1f}"


def _number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:,.{digits}f}" if isinstance(value, float) else f"{value:,}"


def _figure(value: Any, unit: str) -> str:
    """The target or the measured figure of a goal."""
    if value is None:
        return "–"
    if unit == "answer":
        return "yes" if value else "no"
    texts = {"share": _percent(value, 1 if 1000 * value % 10 else 0), "minutes": f"{value:.1f} min", "GiB": f"{value:.2f} GiB"}
    return texts.get(unit, str(value))


def _markdown_cell(text: object) -> str:
    """Text that cannot break a Markdown table."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")
