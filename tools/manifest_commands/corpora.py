"""list, prepare, prepare-all: the published corpora."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from nemo_desta.corpora.published import get, preparer, registry
from nemo_desta.corpora.published.base import PublishedCorpus
from tools.manifest_commands._common import positive

WIDTH = 220  # columns of a table that goes into a file


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the three subcommands."""
    listing = subparsers.add_parser("list", help="show the published corpora: domain, licence, access, hours, attributes")
    shape = listing.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="as JSON")
    shape.add_argument("--markdown", action="store_true", help="as the table of docs/corpora.md")
    listing.set_defaults(run=list_corpora)
    one = subparsers.add_parser("prepare", help="prepare one published corpus")
    one.add_argument("name", metavar="NAME")
    one.add_argument("--corpus-dir", type=Path, required=True, help="folder in the published layout (see the module of the corpus)")
    one.add_argument("--output-dir", type=Path, required=True, help="OUTPUT_DIR/NAME/cuts.jsonl.gz is written")
    _add_settings(one)
    one.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="option of the recipe, e.g. mic=mic1, languages=[en,zh-CN]; repeatable")
    one.set_defaults(run=prepare_one)
    many = subparsers.add_parser("prepare-all", help="prepare many corpora, with a summary table")
    many.add_argument("--config", type=Path, required=True, help="YAML: output_dir, num_jobs, corpora: {NAME: folder or {corpus_dir: folder, ...}}")
    many.add_argument("--again", action="store_true", help="also prepare what is already prepared with the same options")
    many.set_defaults(run=prepare_all)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num-jobs", type=positive, default=1, help="processes (default: %(default)s)")
    parser.add_argument("--max-bad-fraction", type=float, default=0.05, help="more missing or broken entries are an error (default: %(default)s)")
    parser.add_argument("--no-measure", action="store_true", help="read headers only: leave out the attributes that are computed from the samples")


def shown_attributes(corpus: PublishedCorpus) -> str:
    """Attributes of a corpus in one line: those of its labels, then the measured (*) and those left to taggers (+)."""
    return ", ".join([*corpus.attributes, *(f"{key}*" for key in corpus.measured), *(f"{key}+" for key in corpus.tagged)])


def list_corpora(options: argparse.Namespace) -> int:
    """Print one line a corpus."""
    corpora = registry().values()
    if options.json:
        keys = ("name", "title", "domain", "licence", "access", "hours", "url", "attributes", "measured", "tagged", "aqa5m", "note")
        print(json.dumps([{key: getattr(corpus, key) for key in keys} for corpus in corpora], indent=1, ensure_ascii=False))
        return 0
    if options.markdown:
        print(markdown_table())
        return 0
    rows = [(c.name, c.domain, c.access, f"{c.hours:,.1f}" if c.hours is not None else "?", c.licence, shown_attributes(c), c.note) for c in corpora]
    _print_table(("name", "domain", "access", "hours", "licence", "attributes", "note"), rows)
    hours = sum(corpus.hours or 0.0 for corpus in corpora)
    print(f"{len(rows)} corpora, {hours:,.0f} hours as published. * measured from the samples; + not in the labels: add them with a tagger")
    return 0


def markdown_table() -> str:
    """The table of docs/corpora.md."""
    lines = ["| corpus | paper's name | domain | hours | access | licence | attributes | note |", "|---|---|---|---|---|---|---|---|"]
    for c in registry().values():
        hours = f"{c.hours:,.1f}" if c.hours is not None else ""
        cells = (f"[`{c.name}`]({c.url})", c.title, c.domain, hours, c.access, c.licence, shown_attributes(c).replace("*", "\\*"), c.note)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def prepare_one(options: argparse.Namespace) -> int:
    """Prepare one corpus and print what came of it."""
    extra = dict(_option(text) for text in options.option)
    settings = {"num_jobs": options.num_jobs, "max_bad_fraction": options.max_bad_fraction, "measure": not options.no_measure, **extra}
    summary = _prepare(options.name, options.corpus_dir, options.output_dir, settings)
    print(f"{options.name}: {_sentence(summary)}: {options.output_dir / options.name / 'cuts.jsonl.gz'}")
    return 0


def _option(text: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not sign:
        raise ValueError(f"--option {text!r}: write KEY=VALUE")
    return key, yaml.safe_load(value)


def _prepare(name: str, corpus_dir: Path, output_dir: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    preparer(name)(corpus_dir, output_dir, **settings)
    return json.loads((output_dir / name / "prepared.json").read_text("utf-8"))


def _sentence(summary: Mapping[str, Any]) -> str:
    skipped = ", ".join(f"{reason} {count}" for reason, count in summary["skipped"].items()) or "nothing"
    return f"{summary['clips']:,} clips, {summary['hours']:,.2f} hours; left out: {skipped}"


def read_config(path: Path) -> dict[str, Any]:
    """Read the YAML of ``prepare-all``.

    Returns:
        ``{"output_dir": Path, "corpora": {name: {"corpus_dir": Path, **settings}}}``; settings of the top level hold for every corpus that does not
        name its own.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no YAML, no such keys, an unknown corpus, or a corpus without a folder.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: it holds output_dir and corpora (a name for each folder)")
    try:
        config = yaml.safe_load(path.read_text("utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict) or not config.get("output_dir") or not isinstance(config.get("corpora"), dict):
        raise ValueError(f"{path}: expected output_dir and corpora (a name for each folder), got {config!r:.200}")
    common = {key: value for key, value in config.items() if key not in ("output_dir", "corpora")}
    corpora = {}
    for name, entry in config["corpora"].items():
        get(name)
        entry = {"corpus_dir": entry} if isinstance(entry, str) else entry
        if not isinstance(entry, dict) or not entry.get("corpus_dir"):
            raise ValueError(f"{path}: {name} needs a corpus_dir, got {entry!r:.200}")
        corpora[name] = common | entry | {"corpus_dir": Path(entry["corpus_dir"])}
    return {"output_dir": Path(config["output_dir"]), "corpora": corpora}


def prepare_all(options: argparse.Namespace) -> int:
    """Prepare the corpora of a YAML file; one that fails does not stop the others. 1 where one failed."""
    config = read_config(options.config)
    output_dir: Path = config["output_dir"]
    rows, failed = [], 0
    for name, entry in config["corpora"].items():
        settings = {key: value for key, value in entry.items() if key != "corpus_dir"}
        try:
            done = None if options.again else _finished(output_dir / name, {"corpus_dir": str(entry["corpus_dir"].resolve()), **settings})
            summary = done or _prepare(name, entry["corpus_dir"], output_dir, settings)
            state, what = ("as before" if done else "prepared"), _sentence(summary)
            rows.append((name, state, f"{summary['clips']:,}", f"{summary['hours']:,.2f}", what.partition("left out: ")[2]))
        except (OSError, ValueError, RuntimeError) as error:
            failed += 1
            rows.append((name, "FAILED", "", "", str(error)))
            print(f"{name}: {error}", file=sys.stderr)
    _print_table(("corpus", "state", "clips", "hours", "left out / error"), rows)
    return 1 if failed else 0


def _finished(folder: Path, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """Summary of a corpus that is prepared with these options, or None. Options that do not change the cuts are not compared."""
    try:
        summary = json.loads((folder / "prepared.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    ignored = {"num_jobs", "max_bad_fraction", "corpus", "title"}
    same = {k: v for k, v in summary.get("config", {}).items() if k not in ignored} == {k: v for k, v in wanted.items() if k not in ignored}
    return summary if same and (folder / "cuts.jsonl.gz").is_file() else None


def _print_table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in columns:
        table.add_column(name, justify="right" if name in ("hours", "clips") else "left", overflow="fold", no_wrap=name in ("name", "corpus"))
    for row in rows:
        table.add_row(*(cell.replace("[", r"\[") for cell in row))
    console.print(table)
