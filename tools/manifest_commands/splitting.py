"""``split``: parts that share no speaker or source."""

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tools.manifest_commands._common import add, add_manifest, names, plan, print_problems


def add_commands(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = add(subparsers, "split", "Divide a manifest so that no speaker or source is in two parts.", run)
    add_manifest(parser)
    parser.add_argument("--output-dir", type=Path, required=True, help="of the parts, <part>.jsonl.gz or folders <part>")
    parser.add_argument(
        "--fractions", default="train=0.98,validation=0.01,test=0.01", help="shares of the cuts (default: train=0.98,validation=0.01,test=0.01)"
    )
    parser.add_argument("--by", default="group", help="group (speaker, else source), speaker, source, cut, or the name of an attribute (default: group)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice")
    parser.add_argument("--store", action="store_true", help="write indexed stores instead of .jsonl.gz")
    parser.add_argument("--overwrite", action="store_true", help="replace parts that exist")


def run(options: argparse.Namespace) -> int:
    """Divide; 1 where a part of the manifest could not be read."""
    from nemo_desta.manifests.sinks import open_sink
    from nemo_desta.manifests.sources import Problems, records
    from nemo_desta.manifests.splitting import assign, describe_parts, further_groups, group_sizes, split

    problems = Problems()
    fractions = _fractions(options.fractions)
    sizes = group_sizes(records(options.manifest, problems), options.by)
    parts = assign(sizes, fractions, seed=options.seed)
    further = further_groups(lambda: records(options.manifest, Problems()), options.by)
    ending = "" if options.store else ".jsonl.gz"
    with ExitStack() as stack:
        outputs = {name: options.output_dir / f"{name}{ending}" for name in fractions}
        how: dict[str, Any] = {"overwrite": options.overwrite, "inputs": [options.manifest]}
        sinks = {name: stack.enter_context(open_sink(output, plan={**plan(options), "part": name}, **how)) for name, output in outputs.items()}
        lost = split(records(options.manifest, Problems()), sinks, parts, options.by, further)
    for name, entry in describe_parts(sizes, parts).items():
        print(f"{outputs[name]}: {entry['cuts']:,} cuts of {entry['groups']:,} groups")
    if lost:
        print(f"{lost:,} rows about several clips left out: their clips are in different parts")
    print_problems(problems)
    return 1 if len(problems) else 0


def _fractions(text: str) -> dict[str, float]:
    try:
        return {name.strip(): float(value) for name, value in (part.split("=") for part in names(text))}
    except ValueError:
        raise ValueError(f"--fractions {text}: write them as train=0.9,test=0.1") from None
