"""Ask a trained model about held-out clips, or any audio LLM the published benchmarks, and write the report.

    python examples/evaluate.py --config-name=desta25_mini                # two CPU cores; after train_desta.py
    python examples/evaluate.py --config-name=desta25_mini 'eval.checkpoint="runs/mini/train/checkpoints/step=650.ckpt"'
    python examples/evaluate.py --config-name=eval benchmarks=[mmau,sakura] model=runs/my/checkpoint data_root=data judge=openai:gpt-4o-2024-11-20 \
        judging.endpoint.base_url=https://api.openai.com/v1
    python examples/evaluate.py --config-name=eval benchmarks=[heldout] 'model="runs/mini/train/checkpoints/step=700.ckpt"' data_root=runs/mini \
        prompts.heldout=heldout/mini run_dir=runs/eval
    python examples/evaluate.py --config-name=eval benchmarks=[mmau] data_root=data predictions=runs/eval/predictions     # score only, no inference
    python examples/evaluate.py --config-name=eval_compare runs=[runs/a,runs/b]                                           # paired comparison

A killed run goes on where it stopped when the same command is given again; a finished one is scored and reported anew without asking the model or the judge.
Exit code 3: the run is finished, but items have an error or no response (they count as wrong and are named). docs/evaluation.md explains the rest.
"""

import logging
import sys

from nemo.core.config import hydra_runner
from omegaconf import DictConfig
from rich.console import Console

from nemo_desta.cli import INCOMPLETE, say_errors
from nemo_desta.config import typed
from nemo_desta.evaluation.compare import comparison_table, evaluate_comparison
from nemo_desta.evaluation.config import CompareConfig, ZeroShotConfig, typed_as
from nemo_desta.evaluation.pipeline import evaluate_run
from nemo_desta.evaluation.report.zero_shot import summary_table
from nemo_desta.evaluation.zero_shot import evaluate_zero_shot


@hydra_runner(config_path="../conf", config_name="desta25_mini")
def main(cfg: DictConfig) -> None:
    """Entry point: the configuration's keys say which evaluation is meant."""
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it reports every request, ten thousands of them
    with say_errors("where it stopped"):
        if "benchmarks" in cfg:
            results = evaluate_zero_shot(typed_as(ZeroShotConfig, cfg))
            Console().print(summary_table(results))
            sys.exit(0 if results["complete"] else INCOMPLETE)
        if "runs" in cfg:
            Console().print(comparison_table(evaluate_comparison(typed_as(CompareConfig, cfg))))
            return
        results = evaluate_run(typed(cfg))
    log = logging.getLogger("nemo_desta")
    for name, row in results["attributes"].items():
        shares = ", ".join(f"{100 * row[condition]['accuracy']:.1f} % {condition}" for condition in ("with_audio", "shuffled", "no_audio"))
        log.info("%s (%d clips): %s, %.1f %% majority class", name, row["with_audio"]["n"], shares, 100 * row["majority"])


if __name__ == "__main__":
    main()
