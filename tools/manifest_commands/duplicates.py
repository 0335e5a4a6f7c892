"""``dedup`` and ``decontaminate``: what is there twice, and what a benchmark will ask about."""

import argparse
from pathlib import Path
from typing import Any

from tools.manifest_commands._common import add, add_jobs, add_manifest, add_output, names, plan, print_counts, print_problems, write_report


def add_commands(subparsers: Any) -> None:
    """Add both subcommands."""
    parser = add(subparsers, "dedup", "Copy a manifest without repetitions; the first of each stays.", run_dedup)
    _add_common(parser)
    parser.add_argument(
        "--by", default="id,row", help="id, row (same audio, prompts and responses), audio (same decoded samples), text (near-same transcript); default id,row"
    )
    parser.add_argument("--similarity", type=float, default=0.9, help="of text: Jaccard index of word pairs (default: 0.9)")
    parser = add(subparsers, "decontaminate", "Copy a manifest without the clips, recordings and texts of benchmarks.", run_decontaminate)
    _add_common(parser)
    parser.add_argument("--ids", type=Path, nargs="+", default=[], help="text files with an id, path or stem a line")
    parser.add_argument("--benchmark-audio", type=Path, nargs="+", default=[], help="audio files or folders of them")
    parser.add_argument("--texts", type=Path, nargs="+", default=[], help=".txt, .json, .jsonl or .csv with questions or transcripts")
    parser.add_argument("--text-field", default="question,text", help="fields of these that hold text (default: question,text)")
    parser.add_argument("--against", default="transcript,prompt", help="texts of a cut: transcript, prompt, response, seed (default: transcript,prompt)")
    parser.add_argument("--similarity", type=float, default=0.7, help="Jaccard index of word pairs (default: 0.7)")


def _add_common(parser: argparse.ArgumentParser) -> None:
    add_manifest(parser)
    add_output(parser)
    add_jobs(parser, "hash audio")
    parser.add_argument("--report", type=Path, help="write what was removed, and why, as JSON here")


def run_dedup(options: argparse.Namespace) -> int:
    """Copy; 1 where a part of the manifest could not be read or audio could not be compared."""
    from nemo_desta.manifests.duplicates import dedup
    from nemo_desta.manifests.sinks import open_sink
    from nemo_desta.manifests.sources import Problems

    problems = Problems()
    with open_sink(options.output, plan=plan(options), overwrite=options.overwrite, inputs=[options.manifest]) as sink:
        removal = dedup(options.manifest, sink, by=names(options.by), similarity=options.similarity, num_jobs=options.num_jobs, problems=problems)
    return _say(options, removal, problems)


def run_decontaminate(options: argparse.Namespace) -> int:
    """Copy; 1 where a part of the manifest could not be read or audio could not be compared."""
    from nemo_desta.manifests.duplicates import decontaminate, read_benchmark
    from nemo_desta.manifests.sinks import open_sink
    from nemo_desta.manifests.sources import Problems

    problems = Problems()
    benchmark = read_benchmark(options.ids, options.benchmark_audio, options.texts, fields=names(options.text_field))
    with open_sink(options.output, plan=plan(options), overwrite=options.overwrite, inputs=[options.manifest]) as sink:
        removal = decontaminate(
            options.manifest, sink, benchmark, against=names(options.against), similarity=options.similarity, num_jobs=options.num_jobs, problems=problems
        )
    return _say(options, removal, problems)


def _say(options: argparse.Namespace, removal: Any, problems: Any) -> int:
    write_report(options.report, {**removal.report(), "problems": problems.as_dict()})
    removed = "; removed:" if removal.counts else "; none removed"
    print_counts(f"{removal.read:,} cuts read, {removal.kept:,} written to {options.output}{removed}", removal.counts)
    if removal.not_compared:
        print(f"audio not compared: {removal.not_compared:,} of the written cuts, which cannot be decoded")
    print_problems(problems)
    return 1 if len(problems) else 0
