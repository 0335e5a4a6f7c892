"""Ask a trained model about held-out clips and write the report.

    python examples/evaluate.py --config-name=desta25_mini                # two CPU cores; after train_desta.py
    python examples/evaluate.py --config-name=desta25_mini 'eval.checkpoint="runs/mini/train/checkpoints/step=600.ckpt"'

Writes <run_dir>/eval (predictions, scores) and <run_dir>/report (report.html, report.md, results.json). A killed run goes on where it stopped when the same
command is given again; a finished one is scored and reported anew without asking the model.
"""

import logging

from nemo.core.config import hydra_runner
from omegaconf import DictConfig

from nemo_desta.cli import say_errors
from nemo_desta.config import typed
from nemo_desta.evaluation.pipeline import evaluate_run


@hydra_runner(config_path="../conf", config_name="desta25_mini")
def main(cfg: DictConfig) -> None:
    """Entry point."""
    with say_errors("where it stopped"):
        results = evaluate_run(typed(cfg))
    log = logging.getLogger("nemo_desta")
    for name, row in results["attributes"].items():
        shares = ", ".join(f"{100 * row[condition]['accuracy']:.1f} % {condition}" for condition in ("with_audio", "shuffled", "no_audio"))
        log.info("%s (%d clips): %s, %.1f %% majority class", name, row["with_audio"]["n"], shares, 100 * row["majority"])


if __name__ == "__main__":
    main()
