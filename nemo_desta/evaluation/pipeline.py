"""The evaluation of a run from its configuration: items, responses, scores, retention, report; what is done already is not done again."""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch

from nemo_desta.assets import resolve_model
from nemo_desta.backbones.hf import resolve_dtype
from nemo_desta.checkpoint import latest_checkpoint
from nemo_desta.config import DestaConfig
from nemo_desta.corpora.manifests import UNKNOWN_FIELD, read_cuts
from nemo_desta.evaluation.benchmarks.base import Scored
from nemo_desta.evaluation.benchmarks.heldout import QUESTIONS_PATH, HeldOut, HeldOutSettings
from nemo_desta.evaluation.report import write_report
from nemo_desta.evaluation.results import read_json
from nemo_desta.evaluation.retention import check_retention, load_prompts
from nemo_desta.evaluation.runner import GenerationSettings, run_benchmark, run_fingerprint
from nemo_desta.evaluation.scoring import score_predictions
from nemo_desta.models import DestaModel
from nemo_desta.provenance import manifest, write_json_atomic
from nemo_desta.seed.matching import SYNONYMS_PATH

logger = logging.getLogger(__name__)

# Hydra reads a bare '=' in a value as a second override; what the shell leaves of these quotes tells it otherwise.
QUOTED = """'eval.checkpoint="<directory>"' (with both kinds of quotes: the names of checkpoints hold a '=')"""


def evaluate_run(cfg: DestaConfig, *, load_model: Callable[[Path], Any] | None = None, progress: bool = True) -> dict[str, Any]:
    """Evaluate a trained run and write ``eval`` and ``report`` below its directory.

    Responses are journaled in ``eval/predictions.jsonl``: a killed evaluation goes on where it stopped, and one with the same checkpoint, corpus and settings
    asks nothing again but scores and reports anew.

    Args:
        cfg: the whole configuration; ``eval``, ``generation.system_prompt``, ``model.llm_precision`` and ``run_dir`` are used.
        load_model: checkpoint directory -> model; by default `DestaModel.from_pretrained`. Called only if there is something to ask.

    Returns:
        What ``report/results.json`` holds.

    Raises:
        ValueError: there is no corpus or no checkpoint yet, a manifest of cuts is damaged, or the held-out clips give no question.
    """
    if cfg.trainer.num_threads:
        torch.set_num_threads(cfg.trainer.num_threads)
    run_dir, out = Path(cfg.run_dir), Path(cfg.run_dir) / "eval"
    checkpoint = find_checkpoint(cfg)
    problems: dict[str, list[str]] = {}
    benchmark = HeldOut(_cuts(run_dir, "test", problems), _cuts(run_dir, "train", problems), _settings(cfg))
    benchmark.left_out["manifest_problems"] = {name: _counted(found) for name, found in problems.items() if found}
    model = cache(lambda: (load_model or (lambda path: DestaModel.from_pretrained(path, llm_precision=cfg.model.llm_precision)))(checkpoint))
    generation = GenerationSettings(cfg.eval.max_new_tokens, cfg.eval.batch_rows)
    # The resolved type, not the word `auto`: the journal of a bf16 machine must not go on with fp32 answers.
    run = run_fingerprint(checkpoint, {**asdict(generation), "dtype": str(resolve_dtype(cfg.model.llm_precision))})
    predictions = run_benchmark(benchmark, model, out / "predictions.jsonl", run=run, settings=generation, progress=progress)
    scored = score_predictions(benchmark, predictions)
    _write_scored(out / "scored.jsonl", scored)
    write_json_atomic(out / "summary.json", benchmark.aggregate(scored))
    _retention(cfg, run, model, out / "retention.json")
    write_json_atomic(out / "manifest.json", _manifest(cfg, run_dir, checkpoint, run, len(predictions), problems))
    return write_report(run_dir)


def find_checkpoint(cfg: DestaConfig) -> Path:
    """``eval.checkpoint``, or the newest of the run.

    Raises:
        ValueError: there is none.
    """
    checkpoint = Path(cfg.eval.checkpoint) if cfg.eval.checkpoint else latest_checkpoint(Path(cfg.run_dir) / "train")
    if checkpoint is None or not (checkpoint / "config.json").is_file():
        where = checkpoint or Path(cfg.run_dir) / "train"
        raise ValueError(f"no checkpoint in {str(where)!r}: run examples/train_desta.py with the same --config-name first, or set {QUOTED}")
    return checkpoint


def _settings(cfg: DestaConfig) -> HeldOutSettings:
    return HeldOutSettings(
        max_items_per_attribute=cfg.eval.max_items_per_attribute,
        system_prompt=cfg.generation.system_prompt,
        bootstrap=cfg.eval.bootstrap,
        seed=cfg.eval.seed,
    )


def _cuts(run_dir: Path, split: str, problems: dict[str, list[str]]) -> list[Any]:
    path = run_dir / "corpus" / f"cuts_{split}.jsonl.gz"
    if not path.is_file():
        raise ValueError(f"no corpus at {path}: run examples/prepare_corpus.py with the same --config-name first")
    return list(read_cuts(path, problems=problems.setdefault(f"cuts_{split}", [])))


def _counted(problems: list[str]) -> dict[str, Any]:
    """How many lines of a manifest were lost and how many fields ignored, with the first sentence."""
    unknown = sum(UNKNOWN_FIELD in problem for problem in problems)
    return {"lost_lines": len(problems) - unknown, "unknown_fields": unknown, "first": problems[0]}


def _write_scored(path: Path, scored: list[Scored]) -> None:
    part = path.with_suffix(".tmp")
    part.write_text("".join(json.dumps(row.to_json(), ensure_ascii=False) + "\n" for row in scored), encoding="utf-8")
    part.replace(path)


def _retention(cfg: DestaConfig, run: str, model: Callable[[], Any], path: Path) -> None:
    """Check language retention, unless the same run was checked with the same prompts."""
    prompts = load_prompts(cfg.eval.retention_prompts)
    stored = read_json(path)
    if stored is not None and stored.get("run") == run and [row["prompt"] for row in stored["rows"]] == prompts:
        return
    trained = model()
    backbone = str(resolve_model(trained.config.nemo_desta.get("llm") or f"hf://{trained.config.llm_model_id}"))
    write_json_atomic(path, {"run": run, **check_retention(trained, prompts, backbone=backbone, dtype=trained.backbone.dtype)})


def _manifest(cfg: DestaConfig, run_dir: Path, checkpoint: Path, run: str, predictions: int, problems: dict[str, list[str]]) -> dict[str, Any]:
    inputs = {
        "checkpoint_config": checkpoint / "config.json",
        "checkpoint_weights": checkpoint / "model.safetensors",
        "cuts_test": run_dir / "corpus" / "cuts_test.jsonl.gz",
        "cuts_train": run_dir / "corpus" / "cuts_train.jsonl.gz",
        "questions": QUESTIONS_PATH,
        "matching_rules": SYNONYMS_PATH,
    }
    counts = {name: _counted(found) for name, found in problems.items() if found}
    asked = {"run": run, "checkpoint": checkpoint.name, "predictions": predictions, "extraction": "nemo_desta.seed.matching.match_value"}
    return manifest(cfg, inputs, **asked, manifest_problems=counts)
