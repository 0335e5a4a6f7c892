"""``stats``: what a manifest holds."""

import argparse
import sys
from pathlib import Path
from typing import Any

from tools.manifest_commands._common import add, add_manifest, print_problems, write_report

WIDTH = 160  # columns of a table that goes into a file
COLUMNS = ("", "name", "clips", "hours", "rows", "transcripts", "median s", "median words", "prompts")


def add_commands(subparsers: Any) -> None:
    """Add the subcommand."""
    text = "Hours, clips, attribute values, prompt kinds and response lengths by dataset and domain. Prints tables; writes JSON and plots where asked."
    parser = add(subparsers, "stats", text, run)
    add_manifest(parser)
    parser.add_argument("--report", type=Path, help="write everything as JSON here")
    parser.add_argument("--plots", type=Path, help="folder for hours.png, durations.png, responses.png, attributes.png")
    parser.add_argument("--values", type=int, default=8, help="attribute values in the table (default: 8)")


def run(options: argparse.Namespace) -> int:
    """Count; 1 where a part of the manifest could not be read, or it is empty."""
    from rich.console import Console
    from rich.table import Table

    from nemo_desta.manifests.sources import Problems, records
    from nemo_desta.manifests.stats import plot, statistics, table_rows

    problems = Problems()
    report = statistics(records(options.manifest, problems))
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    table = Table(*COLUMNS, title=str(options.manifest))
    for row in table_rows(report):
        table.add_row(*row)
    console.print(table)
    table = Table("attribute", "values", title="Attributes and prompt kinds")
    for key, counts in {**report["total"]["attributes"], "prompt kind": report["total"]["prompt_kinds"]}.items():
        table.add_row(key, ", ".join(f"{value} {n}" for value, n in list(counts.items())[: options.values]))
    console.print(table)
    write_report(options.report, {**report, "problems": problems.as_dict()})
    for path in plot(report, options.plots) if options.plots else []:
        print(path)
    print_problems(problems)
    if not report["total"]["clips"]:
        print(f"{options.manifest} holds no cut", file=sys.stderr)
    return 1 if len(problems) or not report["total"]["clips"] else 0
