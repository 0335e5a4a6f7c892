"""The report of a zero-shot evaluation: results.json, report.md, report.html with figures and clips, and the console's table."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from nemo_desta.evaluation.benchmarks.base import Judged, Mode, Status
from nemo_desta.evaluation.model import Conversation
from nemo_desta.evaluation.models_under_test.base import audios_of
from nemo_desta.evaluation.report.clips import copy_clip, warn_of_silent
from nemo_desta.evaluation.report.figures_zero_shot import MAX_BARS, plot_group
from nemo_desta.evaluation.report.page import environment
from nemo_desta.evaluation.report.plots import title
from nemo_desta.evaluation.verdicts import score_of
from nemo_desta.provenance import write_json_atomic

logger = logging.getLogger(__name__)

MODES = (Mode.official.value, Mode.strict.value)
MIN_ITEMS = 5  # of a category that may be among the worst
WORST = 10
UNSCORED = (Status.unparsed, Status.missing, Status.error)
SHARES = ("share", "fraction")  # units of figures from 0 to 1, shown in per cent


def shown(value: float | None, unit: str) -> str:
    """A figure as text: two decimals, shares in per cent; what is per cent of something ("% WER") says so."""
    if value is None:
        return "–"
    return f"{100 * value:.2f} %" if unit in SHARES else f"{value:.2f} {unit}" if unit.startswith("%") else f"{value:.2f}"


def shown_interval(bounds: list[float] | None, unit: str) -> str:
    """An interval as text, with a decimal less for per cent."""
    factor, digits = 100 if unit in SHARES else 1, 1 if unit in (*SHARES, "%") else 2
    return "–" if not bounds else f"{factor * bounds[0]:.{digits}f} – {factor * bounds[1]:.{digits}f}"


def overview(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a benchmark: the primary figure in both modes with interval, and the counts."""
    rows = []
    for name, found in results["benchmarks"].items():
        primary = found["strict"]["primary"]
        row = {"benchmark": name, "figure": primary["name"], "unit": primary.get("unit", ""), "n": found["n"], "complete": found["complete"]}
        for mode in MODES:
            row[mode] = {"value": found[mode]["primary"]["value"], "ci95": found[mode]["ci95"]["primary"], **found[mode]["counts"]}
        rows.append(row)
    return rows


def summary_table(results: Mapping[str, Any]) -> Table:
    """The overview for the console."""
    table = Table(title=f"{results['name']}: {results['model']['name']}", caption="in brackets: 95 % intervals", box=None, padding=(0, 1, 0, 0))
    table.add_column("benchmark", min_width=15)
    for column in ("items", "official", "strict", "unparsed", "missing", "errors"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in overview(results):
        unit = row["unit"]
        figures = [f"{shown(row[mode]['value'], unit)}\n({shown_interval(row[mode]['ci95'], unit)})" for mode in MODES]
        counts = [_both(row, status) for status in UNSCORED]
        table.add_row(f"{row['benchmark']}\n{row['figure']}", str(row["n"]), *figures, *counts)
    return table


def _both(row: Mapping[str, Any], status: Status) -> str:
    """A count; of both modes where they differ."""
    official, strict = (row[mode][status.value] for mode in MODES)
    return str(strict) if official == strict else f"{official} / {strict}"


def group_tables(found: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Group -> rows with both modes' figures and intervals, in the benchmark's order."""
    tables: dict[str, list[dict[str, Any]]] = {}
    for group, values in (found["strict"].get("groups") or {}).items():
        tables[group] = []
        for value, row in values.items():
            cells = {mode: _cell(found[mode], group, str(value)) for mode in MODES}
            alike = row.get("unit") in (None, found["strict"]["primary"].get("unit")) and not row.get("lower_is_better")  # as the primary figure
            about = {"value": str(value), "n": row.get("n"), "unit": row.get("unit"), "metric": row.get("metric"), "alike": alike}
            about["counts"] = {status.value: row.get(status.value) for status in UNSCORED}
            tables[group].append({**about, **cells})
    return tables


def _cell(figures: Mapping[str, Any], group: str, value: str) -> dict[str, Any]:
    row = (figures.get("groups") or {}).get(group, {}).get(value, {})
    return {"value": row.get("value"), "ci95": figures["ci95"]["groups"].get(group, {}).get(value)}


def worst_categories(tables: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The categories with the lowest strict figures among those of the primary figure's unit."""
    rows = [{"group": group, **row} for group, members in tables.items() for row in members]
    known = [r for r in rows if r["strict"]["value"] is not None and (r["n"] or 0) >= MIN_ITEMS and r["alike"]]
    return sorted(known, key=lambda r: r["strict"]["value"])[:WORST] if len(known) > 1 else []


def write_zero_shot_report(run_dir: Path, results: dict[str, Any], works: Mapping[str, Any], *, failures: int, seed: int) -> None:
    """Write results.json, report.md and report.html.

    Args:
        works: name -> `nemo_desta.evaluation.zero_shot.Work` with its verdicts.
        failures: failed items shown of each benchmark.
    """
    write_json_atomic(run_dir / "results.json", results)
    for stale in [*(run_dir / "figures").glob("*.svg"), *(run_dir / "clips").glob("*.flac")]:
        stale.unlink()
    sections = []
    for name, found in results["benchmarks"].items():
        tables = group_tables(found)
        cards = failure_cards(works[name], run_dir / "clips", count=failures, seed=seed)
        unit = found["strict"]["primary"].get("unit", "")
        figures = _figures(name, tables, run_dir / "figures", f"{found['strict']['primary']['name']}, {unit}".rstrip(", "))
        sections.append({"name": name, "found": found, "unit": unit, "tables": tables, "worst": worst_categories(tables), "figures": figures, "cards": cards})
    context = {"results": results, "overview": overview(results), "sections": sections, "modes": MODES}
    templates = environment()
    templates.filters |= {"shown": shown, "bounds": shown_interval}
    for file in ("report.html", "report.md"):
        template = templates.get_template(f"zero_shot_{file}.j2")
        (run_dir / file).write_text(template.render(context), encoding="utf-8")
    logger.info("the report is %s", run_dir / "report.html")


def _figures(name: str, tables: Mapping[str, list[dict[str, Any]]], folder: Path, label: str) -> dict[str, str]:
    """Group -> path of its plot, relative to the page."""
    figures = {}
    for group, rows in tables.items():
        drawn = [row for row in rows if row["strict"]["value"] is not None and row["alike"]]
        if 1 < len(drawn) <= MAX_BARS:
            path = plot_group(drawn, folder / f"{name}_{_safe(group)}.svg", label=label)
            figures[group] = f"{folder.name}/{path.name}"
    return figures


def failure_cards(work: Any, folder: Path, *, count: int, seed: int) -> list[dict[str, Any]]:
    """Items that the strict mode scores below 1, drawn at random track by track, each with its clips to listen to."""
    rng = np.random.default_rng(seed)
    by_track: dict[str, list[Judged]] = {}
    for judged in work.judged[Mode.strict]:
        wrong = judged.verdict.status in (Status.scored, Status.unparsed) and judged.verdict.score is not None and score_of(judged.verdict) < 1
        if wrong or judged.verdict.status is Status.error:
            by_track.setdefault(judged.item.track, []).append(judged)
    queues = [[members[i] for i in rng.permutation(len(members))] for members in by_track.values()]
    drawn: list[Judged] = []
    while len(drawn) < count and any(queues):
        for queue in queues:
            if queue and len(drawn) < count:
                drawn.append(queue.pop())
    problems: list[str] = []
    cards = [_card(work, judged, folder, number, problems) for number, judged in enumerate(drawn, start=1)]
    warn_of_silent(problems)
    return cards


def _card(work: Any, judged: Judged, folder: Path, number: int, problems: list[str]) -> dict[str, Any]:
    conversation: Conversation = work.benchmark.prompt(judged.item)
    copies = [copy_clip(a["audio"], folder / f"{work.name}_{number:02d}_{k}.flac", problems) for k, a in enumerate(audios_of(conversation), start=1)]
    response = work.responses.get(judged.item.id)
    return {
        "item": judged.item.id,
        "track": title(judged.item.track),
        "question": judged.item.question,
        "gold": judged.item.gold,
        "response": judged.response,
        "error": response.error if response else "",
        "problem": judged.verdict.detail.get("problem", ""),
        "parsed": judged.verdict.parsed,
        "status": judged.verdict.status.value,
        "score": judged.verdict.score,
        "replies": {purpose: list(texts) for purpose, texts in judged.replies.items()},
        "audio": [f"{folder.name}/{copy.name}" for copy in copies if copy is not None],
        "silent": len([copy for copy in copies if copy is None]),
    }


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)
