"""Runs beside published figures, one table a benchmark, each figure with its source.

    python tools/leaderboard.py runs/eval [runs/other ...] [--mode official] [--output runs/leaderboard] [--published my_figures.yaml]

Prints the tables and writes ``leaderboard.md`` and ``leaderboard.json`` where ``--output`` says. Published figures were made by the official scripts, so
runs are set beside them in official mode; ``--mode strict`` shows the stricter figures. Figures are comparable only where prompt, judge and data are: the
source of a run names them. Exit code: 0; 2 when a run has no results.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

import nemo_desta
from nemo_desta.provenance import write_json_atomic

PUBLISHED = Path(nemo_desta.__file__).parent / "evaluation" / "published.yaml"
MODES = ("official", "strict")
KINDS = {"authors": "published", "third_party": "by others", "run": "this run"}


def figure_at(results: Mapping[str, Any], path: str) -> float | None:
    """The figure at ``primary``, ``groups/<group>/<value>`` or a field of such a row; None where a run does not have it."""
    node: Any = results
    for part in path.split("/"):
        node = node.get(part) if isinstance(node, Mapping) else None
    value = node.get("value") if isinstance(node, Mapping) else node
    return float(value) if isinstance(value, int | float) else None


def run_row(run: Path, results: Mapping[str, Any], name: str, figures: Mapping[str, str], mode: str) -> dict[str, Any]:
    """A run as a row: its figures, and prompt, judge, data and what failed as its source."""
    found = results["benchmarks"][name]
    counts = found[mode]["counts"]
    judge = ", ".join(judge["name"] for judge in results["judges"][:1]) if found["judged_items"] else ""
    data = results["manifest"].get("data", {}).get(name, {})
    source = [f"prompt {found['prompt']['id']} v{found['prompt']['version']} ({found['prompt']['sha256'][:8]})", f"judge {judge}" if judge else "", mode]
    source += [f"data {next(iter(data.values()))[:8]}" if data else "", f"limit {found['limit']}" if found["limit"] else ""]
    failed = [f"{counts[status]} {status}" for status in ("unparsed", "missing", "error") if counts[status]]
    values = {figure: figure_at(found[mode], path) for figure, path in figures.items()}
    return {"system": f"{results['name']}: {results['model']['name']}", "kind": "run", "source": "; ".join(filter(None, source)), "note": ", ".join(failed),
            "values": values, "n": found["n"], "run": run.name}  # fmt: skip


def merge(runs: Sequence[Path], published: Mapping[str, Any], mode: str) -> dict[str, Any]:
    """Benchmark -> title, columns and rows, the best first by the first column.

    Raises:
        ValueError: a run has no results.json, or a published row lacks its source.
    """
    loaded = [(run, _results(run)) for run in runs]
    tables = {}
    for name, table in published.items():
        ours = [run_row(run, results, name, table["figures"], mode) for run, results in loaded if name in results["benchmarks"]]
        for row in table["rows"]:
            if not row.get("source") or not row.get("values", {}).keys() <= table["figures"].keys():
                raise ValueError(f"published figures of {name}, {row.get('system')!r}: a row needs a source, and values among {sorted(table['figures'])}")
        first = next(iter(table["figures"]))
        rows = sorted([*table["rows"], *ours], key=lambda row: -(row["values"].get(first) if row["values"].get(first) is not None else -1.0))
        if ours or not loaded:
            tables[name] = {"title": table["title"], "figures": list(table["figures"]), "rows": rows}
    return tables


def _results(run: Path) -> dict[str, Any]:
    path = run / "results.json"
    if not path.is_file():
        raise ValueError(f"{run} holds no results.json: run examples/evaluate.py --config-name=eval first")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def cells(row: Mapping[str, Any], figures: Sequence[str]) -> list[str]:
    """A row's texts: system, kind, figures, source with its note."""
    values = [row["values"].get(figure) for figure in figures]
    note = f" ({row['note']})" if row.get("note") else ""
    return [row["system"], KINDS[row["kind"]], *("–" if value is None else f"{value:.2f}" for value in values), row["source"] + note]


def markdown(tables: Mapping[str, Any]) -> str:
    """All tables; rows of runs in bold."""
    parts = ["# Leaderboard", ""]
    for name, table in tables.items():
        heads = ["system", "kind", *table["figures"], "source"]
        parts += [f"## {name}", "", f"{table['title']}.", "", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
        for row in table["rows"]:
            texts = [text.replace("|", "\\|") for text in cells(row, table["figures"])]
            parts.append("| " + " | ".join([f"**{texts[0]}**" if row["kind"] == "run" else texts[0], *texts[1:]]) + " |")
        parts.append("")
    return "\n".join(parts)


def show(tables: Mapping[str, Any], console: Console) -> None:
    """Print the tables that have rows. A figure is never cut off: where the console is too narrow for all columns its lines are longer than it is wide."""
    for name, table in tables.items():
        if not table["rows"]:
            continue
        shown = Table(title=f"{name}: {table['title']}")
        widths = {"system": 18, "kind": 9, **{head: max(len(head), 6) for head in table["figures"]}, "source": 26}
        for head, width in widths.items():
            shown.add_column(head, justify="right" if head in table["figures"] else "left", min_width=width, overflow="fold")
        for row in table["rows"]:
            shown.add_row(*cells(row, table["figures"]), style="bold" if row["kind"] == "run" else None)
        console.width = max(console.width, sum(width + 3 for width in widths.values()) + 1)  # cells have a space on either side and a line between them
        console.print(shown)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="run directories of examples/evaluate.py --config-name=eval; none = published figures alone")
    parser.add_argument("--mode", choices=MODES, default="official")
    parser.add_argument("--output", type=Path, help="directory for leaderboard.md and leaderboard.json")
    parser.add_argument("--published", type=Path, default=PUBLISHED, help="YAML of published figures")
    options = parser.parse_args(arguments)
    try:
        tables = merge(options.runs, yaml.safe_load(options.published.read_text(encoding="utf-8")), options.mode)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    show(tables, Console())
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "leaderboard.md").write_text(markdown(tables), encoding="utf-8")
        write_json_atomic(options.output / "leaderboard.json", tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())
