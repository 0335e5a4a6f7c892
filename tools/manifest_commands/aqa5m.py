"""The published set in and out: ``import-aqa5m`` and ``export-aqa5m``."""

import argparse
from pathlib import Path
from typing import Any

from tools.manifest_commands._common import Progress, add, add_jobs, add_manifest, print_counts, print_problems


def add_commands(subparsers: Any) -> None:
    """Add both subcommands."""
    parser = add(subparsers, "import-aqa5m", "Turn the released JSONL of DeSTA-AQA5M into an indexed store of cuts. A stopped import goes on.", run_import)
    parser.add_argument("--jsonl", type=Path, nargs="+", required=True, help="the released files, e.g. speech.*.jsonl audio.*.jsonl (also .gz)")
    parser.add_argument("--audio-root", required=True, help="folder that the rows' audio paths are relative to")
    parser.add_argument("--output-dir", type=Path, required=True, help="of the store")
    parser.add_argument(
        "--durations",
        choices=("probe", "seed"),
        default="probe",
        help="read the audio's headers, or take the time stamps of the seed descriptions and no audio",
    )
    parser.add_argument("--duration-cache", type=Path, help="SQLite file of what was probed before (default: in the store)")
    parser.add_argument("--trust-cache", action="store_true", help="do not look whether files in the cache have changed")
    parser.add_argument("--shard-lines", type=int, default=50_000, help="cuts a shard (default: 50,000)")
    add_jobs(parser, "read audio headers")
    parser = add(subparsers, "export-aqa5m", "Write cuts with self-generated targets as JSONL in the released form.", run_export)
    add_manifest(parser)
    parser.add_argument("--output-dir", type=Path, required=True, help="of the JSONL files, one for each that was imported")
    parser.add_argument("--name", default="rows", help="stem of the file for rows that were not imported (default: rows)")
    parser.add_argument("--audio-root", help="of rows that were not imported: their audio paths are made relative to it")
    parser.add_argument("--overwrite", action="store_true", help="replace files of the same names")


def run_import(options: argparse.Namespace) -> int:
    """Import; 1 where rows or lines had to be left out. Oddities of the published set that cost no row do not count."""
    from nemo_desta.manifests.aqa5m_import import PROBLEMS, ImportOptions, import_aqa5m

    settings = ImportOptions(options.audio_root, options.durations, options.shard_lines)
    with Progress("rows") as progress:
        done = import_aqa5m(
            options.jsonl,
            options.output_dir,
            settings,
            duration_cache=options.duration_cache,
            num_jobs=options.num_jobs,
            trust_cache=options.trust_cache,
            progress=progress,
        )
    print_counts(f"{options.output_dir}: {done['lines']:,} cuts with {done['rows']:,} rows, {done['seconds'] / 3600:,.2f} hours", done["counts"])
    if (options.output_dir / PROBLEMS).exists():
        print(f"what is odd or left out is listed in {options.output_dir / PROBLEMS}")
    lost = done["counts"].get("rows read", 0) - done["counts"].get("rows imported", 0)
    return 1 if lost or done["counts"].get("damaged file") else 0


def run_export(options: argparse.Namespace) -> int:
    """Export; 1 where cuts could not be read."""
    from nemo_desta.manifests.aqa5m_export import export_aqa5m
    from nemo_desta.manifests.sources import Problems

    problems = Problems()
    done = export_aqa5m(options.manifest, options.output_dir, name=options.name, audio_root=options.audio_root, overwrite=options.overwrite, problems=problems)
    print_counts(f"{options.output_dir}: {sum(done.values()):,} rows", {f"{name}.jsonl": n for name, n in done.items()})
    print_problems(problems)
    return 1 if len(problems) else 0
