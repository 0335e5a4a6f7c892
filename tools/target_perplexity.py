"""How surprising training targets are to the backbone: self-generated ones beside templates and those of another LLM.

    python tools/target_perplexity.py --llm asset://smollm2-135m-instruct --targets self=runs/mini/targets/cuts_train.jsonl.gz --templates --limit 400

    # with the targets that another LLM wrote for the same corpus and prompts (same recipe, model.llm=..., another run_dir)
    python tools/target_perplexity.py --llm asset://smollm2-135m-instruct --targets self=runs/mini/targets/cuts_train.jsonl.gz \\
        --targets other=runs/other/targets/cuts_train.jsonl.gz --templates --output runs/mini/perplexity

The first --targets are those of the backbone itself. --templates answers the same rows by templates. Rows that all sets have are compared (a sample of --limit,
chosen by a hash of the row id); sets without common rows are each sampled alone. A set may be a folder
(the store of a run on Ray), of which as many cuts are drawn. Writes perplexity.json, rows.jsonl and perplexity.png to --output.

Exit code: 0; 1 for a problem that the message names.
"""

import argparse
import hashlib
import heapq
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lhotse import CutSet
from rich.console import Console
from rich.progress import track
from rich.table import Table

from nemo_desta import provenance
from nemo_desta.assets import AssetError, resolve_model
from nemo_desta.config import Precision
from nemo_desta.corpora.manifests import read_cuts, write_lines
from nemo_desta.generation.perplexity import Score, Scorer, TargetText, compare, plot, target_texts
from nemo_desta.generation.template_targets import VOICES, template_targets
from nemo_desta.manifests.records import rows_of, to_cut
from nemo_desta.manifests.sources import records
from nemo_desta.manifests.splitting import order_key

TEMPLATES = {voice: "template" if voice == "plain" else f"template_{voice}" for voice in VOICES}  # voice -> name of its set
STEP = 64  # rows between two moves of the progress bar


def choose(sets: Mapping[str, list[TargetText]], limit: int) -> dict[str, list[TargetText]]:
    """The same rows of every set, at most `limit`; of sets without common rows, each its own."""
    common = set.intersection(*({t.row_id for t in texts} for texts in sets.values()))
    chosen = {}
    for name, texts in sets.items():
        candidates = [t for t in texts if t.row_id in common] if common else texts
        ranked = sorted(candidates, key=lambda t: hashlib.sha256(t.row_id.encode()).digest())
        chosen[name] = ranked[:limit] if limit else ranked
    return chosen


def read_set(path: Path, limit: int) -> CutSet:
    """The cuts of a file; of an indexed store or a Shar folder (a run on Ray) as many with targets as rows are wanted, drawn by a hash of their ids.

    Raises:
        ValueError: none has a target.
    """
    if not path.is_dir():
        return read_cuts(path)
    stream = (record for record in records(path) if rows_of(record))
    drawn = heapq.nsmallest(limit, stream, key=lambda record: order_key(0, record["id"])) if limit else stream
    cuts = [to_cut(record) for record in drawn]
    if not cuts:
        raise ValueError(f"{path} holds no cut with targets")
    return CutSet.from_cuts(cuts)


def measure(llm: str, paths: Mapping[str, Path], voices: Sequence[str], limit: int, precision: Precision, batch_tokens: int) -> dict[str, list[Score]]:
    """Scores of every set."""
    scorer = Scorer(resolve_model(llm), precision)
    cuts = {name: read_set(path, limit) for name, path in paths.items()}
    sets = {name: target_texts(found, scorer.tokenizer) for name, found in cuts.items()}
    for voice in voices:
        sets[TEMPLATES[voice]] = target_texts(template_targets(cuts[next(iter(paths))], voice), scorer.tokenizer)
    scores: dict[str, list[Score]] = {}
    for name, texts in choose(sets, limit).items():
        steps = range(0, len(texts), STEP)
        shown = track(steps, description=name, console=Console(stderr=True), disable=not sys.stderr.isatty())
        scores[name] = [score for start in shown for score in scorer.score(texts[start : start + STEP], batch_tokens)]
    return scores


def show(report: Mapping[str, Any], console: Console) -> None:
    """The table of the sets, and the paired comparison."""
    table = Table("targets", "rows", "perplexity", "median", "10 %", "90 %", title="Perplexity under the backbone")
    for name, row in report["sets"].items():
        table.add_row(name, str(row["rows"]), *(f"{row[key]:.2f}" for key in ("perplexity", "row_median", "row_p10", "row_p90")))
    console.print(table)
    first = next(iter(report["sets"]))
    for name, pair in report["paired"].items():
        if pair["rows"]:
            console.print(
                f"{first} is less surprising than {name} on {pair['first_is_lower']:.0%} of {pair['rows']} common rows "
                f"({pair['mean_nats_per_token_above_first']:+.2f} nats a token for {name})",
                markup=False,
            )


def main(arguments: Iterable[str] | None = None) -> int:
    """Command line; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llm", required=True, help="the backbone (asset://, hf:// or a directory)")
    parser.add_argument("--targets", action="append", required=True, metavar="NAME=PATH", help="a set of targets; the first is the backbone's own")
    help_text = "compare with template answers to the rows of the first set, in these voices (default: plain)"
    parser.add_argument("--templates", nargs="*", choices=tuple(VOICES), metavar="VOICE", help=help_text)
    parser.add_argument("--limit", type=int, default=500, help="rows of a set; 0 = all (default: %(default)s)")
    parser.add_argument("--precision", type=Precision, choices=list(Precision), default=Precision.auto)
    parser.add_argument("--batch-tokens", type=int, default=4096, help="padded tokens computed at once (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/perplexity"), help="folder for the results (default: %(default)s)")
    options = parser.parse_args(None if arguments is None else list(arguments))
    try:
        paths = {name: Path(path) for name, separator, path in (text.partition("=") for text in options.targets) if separator and name and path}
        if len(paths) != len(options.targets) or set(TEMPLATES.values()) & set(paths):
            raise ValueError(f"--targets {' '.join(options.targets)}: each must be NAME=PATH with a name of its own, none of {', '.join(TEMPLATES.values())}")
        voices = options.templates or (["plain"] if options.templates is not None else [])
        scores = measure(options.llm, paths, voices, options.limit, options.precision, options.batch_tokens)
        report = compare(scores)
        options.output.mkdir(parents=True, exist_ok=True)
        manifest = provenance.manifest({"llm": options.llm, "limit": options.limit, "precision": options.precision}, paths, report=report)
        provenance.write_json_atomic(options.output / "perplexity.json", manifest)
        lines = ({"set": name, "row_id": s.row_id, "kind": s.kind, "nll": s.nll, "tokens": s.tokens} for name, rows in scores.items() for s in rows)
        write_lines(options.output / "rows.jsonl", (json.dumps(line) for line in lines))
        plot(scores, options.output / "perplexity.png")
    except (OSError, ValueError, AssetError) as error:
        print(f"target_perplexity: {error}", file=sys.stderr)
        return 1
    show(report, Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
