"""Lengths, refusals and yields of training targets by prompt, and whether the backbone says the same when it is asked again.

    python tools/target_quality.py stats runs/mini                                  # the prompts with the worst yields
    python tools/target_quality.py consistency runs/mini --rows 100 --samples 4     # asks the backbone; writes targets/consistency.json

Both read what examples/generate_targets.py wrote; the second loads the engine of that run with the temperature given here.

Exit code: 0; 1 for a problem that the message names.
"""

import argparse
import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table

from nemo_desta import provenance
from nemo_desta.assets import AssetError
from nemo_desta.config import DestaConfig, typed
from nemo_desta.data.conversation import Tokenizer
from nemo_desta.generation.comparison import whole_plan
from nemo_desta.generation.engines import make_engine
from nemo_desta.generation.paths import Paths
from nemo_desta.generation.plan import TargetRow, vocabulary
from nemo_desta.generation.quality import consistency
from nemo_desta.generation.runner import PROMPTS, pool_of
from nemo_desta.generation.written import Written, asked_rows, written


def load(path: Path) -> dict[str, Any]:
    """A JSON file of a finished run.

    Raises:
        FileNotFoundError: it is not there.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: run examples/generate_targets.py first")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def run_config(run_dir: Path) -> DestaConfig:
    """The configuration that a run was made with, at the place where it lies now."""
    config = typed(OmegaConf.create(load(run_dir / "targets" / "manifest.json")["config"]))
    return dataclasses.replace(config, run_dir=str(run_dir))


def ask_again(run_dir: Path, rows: int, samples: int, temperature: float) -> dict[str, Any]:
    """Self-consistency of a sample of a run's rows, also written to ``targets/consistency.json``."""
    if temperature <= 0:
        raise ValueError(f"--temperature {temperature}: greedy answers are always the same, give a value above 0")
    config = run_config(run_dir)
    generation = dataclasses.replace(config.generation, temperature=temperature)
    sets = written(run_dir / "targets", Paths.of(config).corpus)
    engine = make_engine(dataclasses.replace(config, generation=generation))
    try:
        plan, values = _plan(sets, config, engine.tokenizer)
        chosen = sorted(plan, key=lambda row: hashlib.sha256(row.row_id.encode()).digest())[:rows]
        found = {"temperature": temperature, **consistency(chosen, engine, samples, values)}
    finally:
        engine.close()
    provenance.write_json_atomic(run_dir / "targets" / "consistency.json", found)
    return found


def _plan(sets: Sequence[Written], config: DestaConfig, tokenizer: Tokenizer) -> tuple[list[TargetRow], Mapping[str, Sequence[str]]]:
    """Rows that were asked, and the values of all attributes; of a run on Ray the rows about one clip of some parts."""
    pool = pool_of(config)
    if sets[0].values is not None:
        return [row for one in sets for row in asked_rows(one, pool, config.generation, tokenizer)], sets[0].values
    cuts = list(sets[0].asked())
    return whole_plan(cuts, pool, config.generation, tokenizer), vocabulary(cuts)


def show_stats(found: Mapping[str, Any], worst: int, console: Console) -> None:
    """Kinds, and the prompts with the worst yields."""
    table = Table("kind", "asked", "kept", "refused", "words (median)", "words (90 %)", title="By kind of prompt")
    for kind, row in {"all": found["overall"], **found["by_kind"]}.items():
        table.add_row(kind, str(row["asked"]), f"{row['yield']:.0%}", f"{row['refused']:.1%}", str(row["words"].get("median")), str(row["words"].get("p90")))
    console.print(table)
    table = Table("prompt", "asked", "kept", "refused", "words", "rejected for", title=f"The {worst} prompts with the worst yields")
    for row in found["by_prompt"][:worst]:
        why = ", ".join(f"{name} {n}" for name, n in row["rejected"].items())
        table.add_row(row["prompt"], str(row["asked"]), f"{row['yield']:.0%}", f"{row['refused']:.1%}", str(row["words"].get("median")), why)
    console.print(table)


def main(arguments: Iterable[str] | None = None) -> int:
    """Command line; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["stats", "consistency"])
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--worst", type=int, default=15, help="prompts that stats lists (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=100, help="rows asked again (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=4, help="answers a row (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.7, help="of these answers (default: %(default)s)")
    options = parser.parse_args(None if arguments is None else list(arguments))
    console = Console()
    try:
        if options.command == "stats":
            show_stats(load(options.run_dir / "targets" / PROMPTS), options.worst, console)
        else:
            found = ask_again(options.run_dir, options.rows, options.samples, options.temperature)
            console.print_json(json.dumps({key: value for key, value in found.items() if key != "rows"}))
    except (OSError, ValueError, AssetError, OmegaConfBaseException) as error:
        print(f"target_quality: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
