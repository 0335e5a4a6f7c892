"""``merge``, ``sample``, ``show`` and ``index``."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tools.manifest_commands._common import add, add_manifest, add_output, plan, print_problems


def add_commands(subparsers: Any) -> None:
    """Add the subcommands."""
    parser = add(subparsers, "merge", "Write several manifests one after another.", run_merge)
    parser.add_argument("--manifests", type=Path, nargs="+", required=True, help="in the order of the output")
    add_output(parser)
    parser.add_argument("--on-duplicate", choices=("error", "skip", "rename"), default="error", help="what to do about an id that came before (default: error)")
    parser = add(subparsers, "sample", "Write a random part of a manifest, always the same for a seed.", run_sample)
    add_manifest(parser)
    add_output(parser)
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--number", type=int, help="of cuts; with --per, of every value")
    size.add_argument("--fraction", type=float, help="of the cuts")
    parser.add_argument("--per", help="a field of the cut's custom, e.g. dataset: so many cuts of each of its values")
    parser.add_argument("--seed", type=int, default=0, help="of the choice")
    parser = add(subparsers, "show", "Print one cut: attributes, seed, prompts, responses, where it came from.", run_show)
    add_manifest(parser)
    parser.add_argument("cut", help="id of a cut or of a row, or #17 for the 18th cut")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser = add(subparsers, "index", "Make an indexed store of JSONL files where they lie, without copying them.", run_index)
    parser.add_argument("--jsonl", type=Path, nargs="+", required=True, help="uncompressed files of one folder")


def run_merge(options: argparse.Namespace) -> int:
    """Merge; 1 where a part of a manifest could not be read."""
    from nemo_desta.manifests.selecting import merge
    from nemo_desta.manifests.sinks import open_sink
    from nemo_desta.manifests.sources import Problems

    problems = Problems()
    with open_sink(options.output, plan=plan(options), overwrite=options.overwrite, inputs=options.manifests) as sink:
        done = merge(options.manifests, sink, on_duplicate=options.on_duplicate, problems=problems)
    print(f"{options.output}: {done['cuts']:,} cuts; {done['duplicates']:,} ids came twice")
    print_problems(problems)
    return 1 if len(problems) else 0


def run_sample(options: argparse.Namespace) -> int:
    """Sample; 1 where a part of the manifest could not be read."""
    from nemo_desta.manifests.selecting import sample
    from nemo_desta.manifests.sinks import open_sink
    from nemo_desta.manifests.sources import Problems

    problems = Problems()
    with open_sink(options.output, plan=plan(options), overwrite=options.overwrite, inputs=[options.manifest]) as sink:
        count = sample(options.manifest, sink, number=options.number, fraction=options.fraction, per=options.per, seed=options.seed, problems=problems)
    print(f"{options.output}: {count:,} cuts")
    print_problems(problems)
    return 1 if len(problems) else 0


def run_show(options: argparse.Namespace) -> int:
    """Print one cut; 0."""
    from nemo_desta.manifests.selecting import describe_cut, find

    record, where = find(options.manifest, options.cut)
    found = describe_cut(record, where)
    if options.json:
        json.dump(found, sys.stdout, indent=2, ensure_ascii=False)
        print()
        return 0
    rows = found.pop("rows")
    _print_tree(found)
    for row in rows:
        print()
        _print_tree(row)
    return 0


def _print_tree(tree: dict[str, Any], indent: str = "") -> None:
    for key, value in tree.items():
        if isinstance(value, dict):
            print(f"{indent}{key}:")
            _print_tree(value, indent + "  ")
        elif key == "messages":
            for message in value:
                print(f"{indent}{message.get('role')}: {message.get('content')}")
        elif value is not None:
            print(f"{indent}{key}: {value}")


def run_index(options: argparse.Namespace) -> int:
    """Index; 1 where lines are damaged."""
    from nemo_desta.manifests.indexing import index_files
    from nemo_desta.manifests.sources import Problems

    problems = Problems()
    done = index_files(options.jsonl, problems)
    print(f"{options.jsonl[0].parent}: {done['lines']:,} cuts with {done['rows']:,} rows in {len(done['shards'])} files")
    print_problems(problems)
    return 1 if len(problems) else 0
