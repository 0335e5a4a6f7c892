"""``shard``: cuts with their audio as Lhotse Shar."""

import argparse
import sys
from pathlib import Path
from typing import Any

from tools.manifest_commands._common import Progress, add, add_jobs, add_manifest, print_problems


def add_commands(subparsers: Any) -> None:
    """Add the subcommand."""
    text = "Write cuts and audio as Lhotse Shar with an index and checksums. A stopped run goes on; unreadable clips are left out and listed."
    parser = add(subparsers, "shard", text, run)
    add_manifest(parser)
    parser.add_argument("--output-dir", type=Path, required=True, help="of the shards")
    parser.add_argument("--format", choices=("flac", "opus", "wav", "mp3"), default="flac", help="of the audio (default: flac)")
    parser.add_argument("--shard-size", type=int, default=1000, help="cuts a shard (default: 1000)")
    parser.add_argument("--sampling-rate", type=int, help="Hz (default: as it is; Opus takes 8, 12, 16, 24, 48 kHz, others become 16)")
    parser.add_argument("--verify", action="store_true", help="check the SHA-256 of finished shards, and write damaged ones again")
    add_jobs(parser, "write shards")


def run(options: argparse.Namespace) -> int:
    """Write the shards; 1 where clips had to be left out, or there are none."""
    from nemo_desta.manifests.shar import INDEX, SharOptions, write_shar
    from nemo_desta.manifests.sources import Problems

    problems = Problems()
    settings = SharOptions(options.format, options.shard_size, options.sampling_rate)
    with Progress("cuts") as progress:
        index = write_shar(
            options.manifest, options.output_dir, settings, num_jobs=options.num_jobs, verify=options.verify, progress=progress, problems=problems
        )
    size = sum(entry["bytes"] for shard in index["shards"] for entry in shard["files"].values())
    print(f"{options.output_dir}: {index['cuts']:,} cuts in {len(index['shards'])} shards, {index['seconds'] / 3600:,.2f} hours, {size / 2**20:,.1f} MiB")
    skipped = [entry for shard in index["shards"] for entry in shard["skipped"]]
    for entry in skipped[:10]:
        print(f"left out: {entry['id']}: {entry['reason']}")
    rows = [entry for shard in index["shards"] for entry in shard.get("skipped_rows", ())]
    for entry in rows[:10]:
        print(f"row left out: {entry['id']}: {entry['reason']}")
    if rows:
        print(f"{len(rows):,} rows about several clips left out, all listed in {options.output_dir / INDEX}")
    if skipped:
        print(f"{len(skipped):,} cuts left out, all listed in {options.output_dir / INDEX}")
    print_problems(problems)
    if not index["cuts"]:
        print(f"{options.manifest} gave no cut with audio: the shards are empty", file=sys.stderr)
        return 1
    return 1 if skipped or rows or len(problems) else 0
