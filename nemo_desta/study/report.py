"""The paper's two axes side by side: what the arms hear, and what is left of the backbone's language."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from nemo_desta.checkpoint import latest_checkpoint, step_of
from nemo_desta.evaluation.benchmarks.base import SHUFFLED, WITH_AUDIO
from nemo_desta.evaluation.report.plots import COLOURS, FAINT, LABELS, STYLE, save
from nemo_desta.evaluation.results import read_json
from nemo_desta.provenance import manifest, write_json_atomic
from nemo_desta.study.arms import Arm, Paths, arm_config, arms
from nemo_desta.study.config import StudyConfig

COLUMNS = {
    "arm": "arm",
    "perplexity": "target perplexity",
    "with_audio": "accuracy, with audio",
    "shuffled": "accuracy, shuffled audio",
    "majority": "majority class",
    "kept": "text answers kept",
    "answer_perplexity": "perplexity of the backbone's own answers",
    "followed": "instructions followed",
}
DASH = "-"


def write_report(cfg: StudyConfig, paths: Paths, counts: Mapping[str, int]) -> dict[str, Any]:
    """Write ``report/study.json``, ``study.md`` and ``study.svg`` from what the arms left behind; no model is called.

    Args:
        counts: of `write_targets`.

    Returns:
        What study.json holds.
    """
    baseline = read_json(paths.root / "language.json") or {}
    perplexity = (read_json(paths.root / "targets" / "perplexity.json") or {}).get("report", {})
    rows = {arm.name: _arm_figures(cfg, arm, paths, perplexity) for arm in arms(cfg)}
    inputs = {f"targets_{name}": paths.targets(name) for name in cfg.targets} | {
        f"checkpoint_{arm.name}": checkpoint / "model.safetensors" for arm in arms(cfg) if (checkpoint := latest_checkpoint(paths.arm(arm) / "train"))
    }
    results = {
        "arms": rows,
        "untouched": {"instructions": _without_rows(baseline["instructions"]), "answer_perplexity": baseline["answer_perplexity"]},
        "targets": {name: {"about": chosen.about, "writer": str(chosen.writer), "llm": chosen.llm} for name, chosen in cfg.targets.items()},
        "rows": dict(counts),
        "perplexity": perplexity,
        "manifest": manifest(cfg, inputs),
    }
    write_json_atomic(paths.report / "study.json", results)
    plot_axes(results, paths.report / "study.svg")
    (paths.report / "study.md").write_text(markdown(cfg, results), encoding="utf-8")
    return results


def _arm_figures(cfg: StudyConfig, arm: Arm, paths: Paths, perplexity: Mapping[str, Any]) -> dict[str, Any]:
    folder = paths.arm(arm)
    attributes = (read_json(folder / "report" / "results.json") or {})["attributes"]
    retention = read_json(folder / "eval" / "retention.json") or {}
    language = read_json(folder / "eval" / "language.json") or {}
    checkpoint = latest_checkpoint(folder / "train")
    accuracy = {name: macro(attributes, name) for name in (WITH_AUDIO, SHUFFLED)} | {"majority": float(np.mean([a["majority"] for a in attributes.values()]))}
    return {
        "targets": arm.targets,
        "lora": arm.lora,
        "steps": step_of(checkpoint) if checkpoint else None,
        "seed": arm_config(cfg, arm, paths).seed,
        "target_perplexity": (perplexity.get("sets", {}).get(arm.targets) or {}).get("perplexity"),
        "accuracy": accuracy,
        "attributes": {name: {c: row[c]["accuracy"] for c in (WITH_AUDIO, SHUFFLED)} | {"n": row[WITH_AUDIO]["n"]} for name, row in attributes.items()},
        "retention": {key: retention[key] for key in ("prompts", "different")},
        "instructions": _without_rows(language["instructions"]),
        "answer_perplexity": language["answer_perplexity"],
    }


def _without_rows(found: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key != "rows"}


def macro(attributes: Mapping[str, Mapping[str, Any]], condition: str) -> float:
    """Mean accuracy over the attributes: each counts the same, however many clips it has."""
    return float(np.mean([row[condition]["accuracy"] for row in attributes.values()]))


def cells(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """The table's rows as text: one an arm, and the untouched backbone last."""
    rows = []
    for name, arm in results["arms"].items():
        kept = arm["retention"]
        rows.append(
            {
                "arm": name,
                "perplexity": _number(arm["target_perplexity"]),
                "with_audio": _percent(arm["accuracy"][WITH_AUDIO]),
                "shuffled": _percent(arm["accuracy"][SHUFFLED]),
                "majority": _percent(arm["accuracy"]["majority"]),
                "kept": f"{kept['prompts'] - kept['different']}/{kept['prompts']}",
                "answer_perplexity": _number(arm["answer_perplexity"]),
                "followed": f"{arm['instructions']['followed']}/{arm['instructions']['instructions']}",
            }
        )
    plain = results["untouched"]
    followed = f"{plain['instructions']['followed']}/{plain['instructions']['instructions']}"
    return [*rows, dict.fromkeys(COLUMNS, DASH) | {"arm": "untouched LLM", "answer_perplexity": _number(plain["answer_perplexity"]), "followed": followed}]


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _number(value: float | None) -> str:
    return DASH if value is None else f"{value:.2f}"


def table(results: Mapping[str, Any]) -> Table:
    """For the console."""
    shown = Table(title="What is heard, and what is left of the language", padding=(0, 0))
    for key, heading in COLUMNS.items():
        shown.add_column(heading, overflow="fold", no_wrap=key == "arm")  # a narrow console breaks words and cuts off none
    for row in cells(results):
        shown.add_row(*(row[key] for key in COLUMNS))
    return shown


def markdown(cfg: StudyConfig, results: Mapping[str, Any]) -> str:
    """The report as a page."""
    head = ["| " + " | ".join(COLUMNS.values()) + " |", "|" + "---|" * len(COLUMNS)]
    body = ["| " + " | ".join(row[key] for key in COLUMNS) + " |" for row in cells(results)]
    sets = [f"* `{name}`: {chosen.about or 'no description'}" for name, chosen in cfg.targets.items()]
    steps = cfg.base.trainer.max_steps
    said = f"Every arm: {results['rows']['rows']} rows (the same clips and prompts), {steps} steps of {cfg.base.data.batch_rows} rows, seed {cfg.base.seed}."
    return "\n".join([f"# Study {cfg.name}", "", said, "", *sets, "", *head, *body, "", "![figures](study.svg)", ""])


def plot_axes(results: Mapping[str, Any], path: Path) -> Path:
    """Bars by arm: accuracy with and with shuffled audio; text answers kept; perplexity of the untouched backbone's own answers."""
    arms_of = results["arms"]
    names, places = list(arms_of), np.arange(len(arms_of))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 1.4 + 0.5 * len(names)), layout="constrained")
        heard, kept, answers = figure.subplots(1, 3, sharey=True)
        for offset, condition in ((-0.19, WITH_AUDIO), (0.19, SHUFFLED)):
            values = [100 * arm["accuracy"][condition] for arm in arms_of.values()]
            heard.barh(places + offset, values, height=0.36, color=COLOURS[condition], label=LABELS[condition])
        heard.set(xlabel="mean accuracy on held-out clips, %", xlim=(0, 100))
        heard.legend(frameon=False, fontsize=8)
        shares = [100 * (1 - arm["retention"]["different"] / max(1, arm["retention"]["prompts"])) for arm in arms_of.values()]
        kept.barh(places, shares, height=0.6, color=COLOURS[WITH_AUDIO])
        kept.set(xlabel="text answers unchanged, %", xlim=(0, 102))
        answers.barh(places, [arm["answer_perplexity"] or 0.0 for arm in arms_of.values()], height=0.6, color=COLOURS[WITH_AUDIO])
        if results["untouched"]["answer_perplexity"]:
            answers.axvline(results["untouched"]["answer_perplexity"], color="#c0392b", linestyle="--", label="untouched LLM")
            answers.legend(frameon=False, fontsize=8)
        answers.set(xlabel="perplexity of the LLM's own text answers")
        for axes in (heard, kept, answers):
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="x", color=FAINT)
            axes.set_axisbelow(True)
        heard.set_yticks(places, names)
        heard.invert_yaxis()
        return save(figure, path)
