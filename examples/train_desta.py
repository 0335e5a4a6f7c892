"""Train the connector on self-generated targets.

    python examples/train_desta.py --config-name=desta25_mini             # two CPU cores; after prepare_corpus.py and generate_targets.py
    python examples/train_desta.py --config-name=desta25 trainer.devices=8 trainer.strategy=ddp
    torchrun --nproc-per-node 8 examples/train_desta.py --config-name=desta25 parallel.tp=2 parallel.pp=2     # the LLM over several processes: docs/parallel.md

Ctrl-C (or SIGTERM) saves a checkpoint at the end of the step, a second one ends at once. A stopped or killed run goes on from its last checkpoint when the
same command is given again. Any key of the configuration can follow as key=value.
"""

from nemo.core.config import hydra_runner
from omegaconf import DictConfig

from nemo_desta.cli import mark_mistakes, say_errors
from nemo_desta.config import typed
from nemo_desta.models.training import train


@hydra_runner(config_path="../conf", config_name="desta25_mini")
def main(cfg: DictConfig) -> None:
    """Entry point."""
    with say_errors("from the last checkpoint"):
        train(typed(cfg))


if __name__ == "__main__":
    with mark_mistakes():
        main()
