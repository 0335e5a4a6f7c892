"""Let the backbone write its own training targets (paper section III-B), from the corpus of a run.

Reads ``<run_dir>/corpus/cuts_train.jsonl.gz``, writes ``<run_dir>/targets/``. Killed at any moment, the same command goes on where it stopped;
a complete run is skipped. On a CPU::

    python examples/generate_targets.py --config-name=desta25_mini
    python examples/generate_targets.py --config-name=desta25_mini generation.rows=200 run_dir=runs/probe
"""

import logging

from nemo.core.config import hydra_runner
from omegaconf import OmegaConf

from nemo_desta.config import DestaConfig
from nemo_desta.generation.runner import generate_targets


@hydra_runner(config_path="../conf", config_name="desta25_mini", schema=DestaConfig)
def main(cfg: DestaConfig) -> None:
    """Hydra entry point."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = OmegaConf.to_object(cfg)
    assert isinstance(config, DestaConfig)
    generate_targets(config)


if __name__ == "__main__":
    main()
