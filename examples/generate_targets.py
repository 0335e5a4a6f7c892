"""Let the backbone write its own training targets (paper section III-B), from the corpus of a run.

    python examples/generate_targets.py --config-name=desta25_mini            # two CPU cores; after prepare_corpus.py
    python examples/generate_targets.py --config-name=desta25_mini generation.rows=200 run_dir=runs/probe

    python examples/generate_targets.py --config-name=generate engine=vllm ray.address=auto ray.input=shards ray.workers=8 ray.gpus_per_worker=1
    python examples/generate_targets.py --config-name=desta25_mini ray.address=local run_dir=runs/probe        # two engines on this machine

Reads ``<run_dir>/corpus/cuts_train.jsonl.gz`` (or what ``ray.input`` names), writes ``<run_dir>/targets/`` (see docs/targets.md). A run that was killed goes on
where it stopped when the same command is given again; a complete one is skipped. Any key of the configuration can follow as key=value.
"""

import logging

from nemo.core.config import hydra_runner
from omegaconf import DictConfig

from nemo_desta.cli import say_errors
from nemo_desta.config import typed
from nemo_desta.generation.ray_job import generate_on_ray
from nemo_desta.generation.runner import generate_targets


@hydra_runner(config_path="../conf", config_name="desta25_mini")
def main(cfg: DictConfig) -> None:
    """Entry point."""
    with say_errors("where this one stopped"):
        config = typed(cfg)
        targets = generate_targets(config) if config.ray.address is None else generate_on_ray(config)
    logging.getLogger("nemo_desta").info("targets: %s", targets)


if __name__ == "__main__":
    main()
