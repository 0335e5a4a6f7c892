"""Compare targets of different origin on one recipe: the backbone's own, another writer's, templates; with and without LoRA (paper section V).

    python examples/run_study.py --config-name=study_mini                          # two CPU cores, an hour and a quarter; docs/study.md
    python examples/run_study.py --config-name=study_ci                            # minutes: shows that the way is whole
    python examples/run_study.py --config-name=study_mini lora=[false] base.trainer.max_steps=300 run_dir=runs/probe
    python examples/run_study.py --config-name=study                               # the paper's models, on GPUs

Corpus, targets, training and evaluation are those of the recipe. Whatever is finished is skipped, and a killed study goes on where it stopped when the same
command is given again. Writes <run_dir>/report/study.json, study.md and study.svg, and prints the table.
"""

import logging

from nemo.core.config import hydra_runner
from omegaconf import DictConfig
from rich.console import Console

from nemo_desta.cli import say_errors
from nemo_desta.evaluation.config import typed_as
from nemo_desta.study.config import StudyConfig
from nemo_desta.study.report import table
from nemo_desta.study.run import run_study


@hydra_runner(config_path="../conf", config_name="study_mini")
def main(cfg: DictConfig) -> None:
    """Entry point."""
    logging.getLogger("nemo_desta").setLevel(logging.INFO)
    with say_errors("where it stopped"):
        results = run_study(typed_as(StudyConfig, cfg))
    Console().print(table(results))


if __name__ == "__main__":
    main()
