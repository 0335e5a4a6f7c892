"""A study from its configuration: corpus, targets of every writer, one training and one evaluation an arm, report. What is done already is not done again."""

import json
import logging
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from nemo_desta.assets import resolve_model
from nemo_desta.config import DestaConfig
from nemo_desta.corpora.manifests import read_cuts
from nemo_desta.corpora.mixture import ensure_mixture
from nemo_desta.evaluation.pipeline import evaluate_run
from nemo_desta.evaluation.results import read_json
from nemo_desta.generation.perplexity import Score, Scorer, compare, target_texts
from nemo_desta.locking import exclusive
from nemo_desta.models import DestaModel
from nemo_desta.models.training import train
from nemo_desta.modules.transcriber import WhisperTranscriber
from nemo_desta.provenance import sha256_file, write_json_atomic
from nemo_desta.study.arms import Paths, arm_config, arms, share
from nemo_desta.study.config import StudyConfig, check_study
from nemo_desta.study.language import INSTRUCTIONS_PATH, MAX_NEW_TOKENS, Instruction, language_quality, load_instructions, untouched
from nemo_desta.study.ready import ready
from nemo_desta.study.report import write_report
from nemo_desta.study.targets import write_targets

logger = logging.getLogger(__name__)


def run_study(cfg: StudyConfig) -> dict[str, Any]:
    """Run what is missing of a study and write its report.

    Returns:
        What ``report/study.json`` holds.

    Raises:
        ValueError: a mistake in the configuration, something that a later stage needs is missing, another process runs the same study, or a stage cannot be
            done; the message says why.
    """
    check_study(cfg)
    load_instructions(cfg.instructions)
    paths = Paths(Path(cfg.run_dir))
    ready(cfg, paths)
    with exclusive(paths.root):
        return _run(cfg, paths)


def _run(cfg: StudyConfig, paths: Paths) -> dict[str, Any]:
    ensure_mixture(cfg.base.corpus, paths.corpus, WhisperTranscriber.from_pretrained)
    counts = write_targets(cfg, paths)
    write_perplexity(cfg, paths)
    every = arms(cfg)
    for number, arm in enumerate(every, start=1):
        config = arm_config(cfg, arm, paths)
        logger.info("arm %d of %d: %s", number, len(every), arm.name)
        share(paths, paths.arm(arm))
        checkpoint = train(config)
        evaluate_run(config)
        write_language(cfg, config, checkpoint)
    write_baseline(cfg, paths)
    return write_report(cfg, paths, counts)


def write_perplexity(cfg: StudyConfig, paths: Paths) -> None:
    """Perplexity of the sets under the backbone, on the same rows; into ``targets/perplexity.json``."""
    out = paths.root / "targets" / "perplexity.json"
    key = {"llm": cfg.base.model.llm, "rows": cfg.perplexity_rows, "sha256": {name: sha256_file(paths.targets(name)) for name in cfg.targets}}
    if (read_json(out) or {}).get("of") == key:
        return
    scorer = Scorer(resolve_model(cfg.base.model.llm), cfg.base.model.llm_precision)
    scores: dict[str, list[Score]] = {}
    for name in cfg.targets:
        texts = sorted(target_texts(read_cuts(paths.targets(name)), scorer.tokenizer), key=lambda text: text.row_id)  # ids are hashes: a fair sample
        scores[name] = scorer.score(texts[: cfg.perplexity_rows])
    lines = {name: [{"row_id": s.row_id, "kind": s.kind, "nll": s.nll, "tokens": s.tokens} for s in rows] for name, rows in scores.items()}
    write_json_atomic(out, {"of": key, "report": compare(scores), "scores": lines})


def write_language(cfg: StudyConfig, config: DestaConfig, checkpoint: Path) -> None:
    """Text-only quality of an arm, into ``eval/language.json``."""
    folder = Path(config.run_dir) / "eval"
    answers = (read_json(folder / "retention.json") or {})["rows"]
    key = {"weights": sha256_file(checkpoint / "model.safetensors"), **_asked(cfg)}
    _measure(folder / "language.json", key, answers, cfg, cache(lambda: DestaModel.from_pretrained(checkpoint, llm_precision=config.model.llm_precision)))


def write_baseline(cfg: StudyConfig, paths: Paths) -> None:
    """The same of the untouched backbone, into ``language.json``. Its own answers are those that every arm's retention check has kept."""
    answers = (read_json(paths.arm(arms(cfg)[0]) / "eval" / "retention.json") or {})["rows"]
    key = {"weights": cfg.base.model.llm, **_asked(cfg)}
    _measure(paths.root / "language.json", key, answers, cfg, lambda: untouched(cfg.base.model))


def _asked(cfg: StudyConfig) -> dict[str, Any]:
    return {"instructions": cfg.instructions, "file": sha256_file(INSTRUCTIONS_PATH), "tokens": MAX_NEW_TOKENS}


def _measure(path: Path, key: dict[str, Any], answers: Sequence[dict[str, str]], cfg: StudyConfig, load: Callable[[], DestaModel]) -> None:
    key = {**key, "answers": [json.dumps([row["prompt"], row["before"]]) for row in answers]}
    if (read_json(path) or {}).get("of") == key:
        return
    instructions: list[Instruction] = load_instructions(cfg.instructions)
    write_json_atomic(path, {"of": key, **language_quality(load(), instructions, answers)})
