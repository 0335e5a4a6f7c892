"""Options and printing that several subcommands share."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Command = Callable[[argparse.Namespace], int]


def add(subparsers: Any, name: str, text: str, run: Command) -> argparse.ArgumentParser:
    """A subcommand's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(name, help=text.split(". ")[0].rstrip("."), description=text)
    parser.set_defaults(run=run)
    return parser


def add_manifest(parser: argparse.ArgumentParser) -> None:
    """The manifest that is read."""
    parser.add_argument("--manifest", type=Path, required=True, help="JSONL file of cuts (also .gz), indexed store or Shar folder")


def add_output(parser: argparse.ArgumentParser) -> None:
    """The manifest that is written."""
    parser.add_argument("--output", type=Path, required=True, help="x.jsonl, x.jsonl.gz, or a folder for an indexed store")
    parser.add_argument("--overwrite", action="store_true", help="replace the output where it exists")


def add_jobs(parser: argparse.ArgumentParser, what: str) -> None:
    """The number of processes."""
    parser.add_argument("--num-jobs", type=positive, default=1, help=f"processes that {what} (default: 1)")


def positive(text: str) -> int:
    """A whole number above 0, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def names(text: str) -> tuple[str, ...]:
    """``a,b`` as a tuple."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def plan(options: argparse.Namespace) -> dict[str, Any]:
    """The options as they are kept in a store's description; places are left out, so that the same work gives the same description."""
    left_out = ("run", "output", "overwrite", "num_jobs", "report")
    return {key: _plain(value) for key, value in vars(options).items() if key not in left_out}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return value.name
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def write_report(path: Path | None, report: Mapping[str, Any]) -> None:
    """Write a report as JSON where one is asked for."""
    if path is not None:
        from nemo_desta.provenance import write_json_atomic

        write_json_atomic(path, report)


def print_counts(title: str, counts: Mapping[str, Any]) -> None:
    """Counts, one a line."""
    print(title)
    for name, count in counts.items():
        print(f"  {name}: {count:,}" if isinstance(count, int) else f"  {name}: {count}")


def print_problems(problems: Any) -> None:
    """What could not be read, on stderr."""
    for sentence in problems.sentences[:10]:
        print(sentence, file=sys.stderr)
    if len(problems) > 10:
        print(f"... {len(problems)} problems in all: {json.dumps(dict(problems.counts))}", file=sys.stderr)


class Progress:
    """A rich progress line where stderr is a terminal, nothing elsewhere."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> Callable[[int], None]:
        from rich.console import Console
        from rich.progress import Progress as Bar
        from rich.progress import TextColumn, TimeElapsedColumn

        self.bar = Bar(TextColumn("{task.description}"), TextColumn("{task.completed:,.0f}"), TimeElapsedColumn(), console=Console(stderr=True), transient=True)
        task = self.bar.add_task(self.what, total=None)
        if sys.stderr.isatty():
            self.bar.start()
        return lambda n: self.bar.advance(task, n)

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
