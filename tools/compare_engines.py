"""Do two engines give the same answers? Compares two runs of target generation row by row and lists the disagreements.

    python examples/generate_targets.py --config-name=desta25_mini generation.temperature=0 run_dir=runs/a
    python examples/generate_targets.py --config-name=desta25_mini generation.temperature=0 run_dir=runs/b +engine=vllm
    python tools/compare_engines.py runs/a runs/b --output disagreements.jsonl

Reads targets/rows.jsonl of both, or that of every part of a run on Ray. Greedy engines at the same precision differ where two tokens are nearly equally likely.

Exit code: 0; 1 when fewer than --least rows agree, or for a problem that the message names.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nemo_desta.corpora.manifests import write_lines
from nemo_desta.jsonl import text_lines


def read_answers(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Row id -> answer of a run.

    Raises:
        FileNotFoundError: the run has no answers.
    """
    targets = run_dir / "targets"
    files = [path for path in (targets / "rows.jsonl", *sorted(targets.glob("parts/*/rows.jsonl"))) if path.exists()]
    if not files:
        raise FileNotFoundError(f"{targets} has no rows.jsonl and no parts: run examples/generate_targets.py with run_dir={run_dir} first")
    rows = (json.loads(line) for path in files for line in text_lines(path) if line.endswith("}"))  # a kill may have cut the last one
    return {row["row_id"]: row for row in rows}


def disagreements(a: Mapping[str, Mapping[str, Any]], b: Mapping[str, Mapping[str, Any]]) -> tuple[int, list[dict[str, Any]]]:
    """Number of rows that both have, and those whose text or finish_reason differ, with the length of the beginning that they share.

    Raises:
        ValueError: no common rows.
    """
    common = sorted(a.keys() & b.keys())
    if not common:
        raise ValueError("the two runs have no row in common: the same corpus, prompts and seed are needed")
    differing = []
    for row_id in common:
        one, other = a[row_id], b[row_id]
        if (one["text"], one["finish_reason"]) == (other["text"], other["finish_reason"]):
            continue
        same = next((i for i, (x, y) in enumerate(zip(one["text"], other["text"], strict=False)) if x != y), min(len(one["text"]), len(other["text"])))
        differing.append({"row_id": row_id, "shared_characters": same, "a": [one["text"], one["finish_reason"]], "b": [other["text"], other["finish_reason"]]})
    return len(common), differing


def main(arguments: Iterable[str] | None = None) -> int:
    """Command line; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", type=Path)
    parser.add_argument("b", type=Path)
    parser.add_argument("--output", type=Path, help="file for the disagreements, one JSON object a line")
    parser.add_argument("--least", type=float, default=0.95, help="share of equal rows below which the exit code is 1 (default: %(default)s)")
    options = parser.parse_args(None if arguments is None else list(arguments))
    try:
        rows, differing = disagreements(read_answers(options.a), read_answers(options.b))
    except (OSError, ValueError, KeyError) as error:
        print(f"compare_engines: {error}", file=sys.stderr)
        return 1
    agree = 1 - len(differing) / rows
    print(f"{rows - len(differing)} of {rows} common rows agree ({agree:.1%})")
    for entry in differing[:10]:
        print(f"  {entry['row_id']}: {entry['a'][0]!r} | {entry['b'][0]!r}")
    if options.output:
        write_lines(options.output, (json.dumps(entry, ensure_ascii=False) for entry in differing))
    return 0 if agree >= options.least else 1


if __name__ == "__main__":
    sys.exit(main())
