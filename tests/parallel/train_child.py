"""One process of a small parallel training, as torchrun starts it.

Losses go to ``losses.jsonl`` in the run directory, and what every process holds of the connector to ``replica-RANK.jsonl``.
"""

import dataclasses
import hashlib
import json
import os
import resource
import signal
import sys
import time
import warnings
from pathlib import Path

from nemo_desta.cli import say_errors
from nemo_desta.config import DestaConfig
from nemo_desta.models.lightning import DestaModule
from nemo_desta.models.one_run import OneRun
from nemo_desta.models.training import train
from tests.models.train_child import config
from tests.parallel.adapters import LORA


def adapted(home: Path, root: Path, overrides: dict) -> DestaConfig:
    """The small training with some keys changed; its models lie in ``home``, so that all run directories are of one configuration."""
    cfg = config(home)
    cfg.run_dir = str(root)
    cfg.data.num_workers = 0
    cfg.trainer.num_threads = 1  # as under torchrun: other numbers of threads round otherwise
    cfg.data.transcript_drop_prob = 0.0
    cfg.trainer.max_steps, cfg.trainer.checkpoint_every_steps, cfg.trainer.tensorboard = 6, 2, False
    if overrides.get("lora"):
        cfg.model.lora = dataclasses.replace(LORA, dropout=overrides.get("dropout", LORA.dropout))
    cfg.model.connector.dropout = overrides.get("dropout", 0.0)
    if overrides.get("validate"):
        cfg.trainer.validate_every_steps, cfg.trainer.validation_answers, cfg.trainer.validation_new_tokens = 2, 2, 8
        cfg.data.validation_manifest = str(home / "heldout" / "targets" / "cuts_train.jsonl.gz")
    for key, value in overrides.items():
        if "." in key:
            section, name = key.split(".", 1)
            setattr(getattr(cfg, section), name, value)
    return cfg


def replica(module: DestaModule) -> dict[str, str]:
    """Digests of the taps' statistics and of the whole connector of this process."""
    digests = {}
    for name, prefix in (("taps", "tap_"), ("connector", "")):
        state = sorted(module.model.perception.connector.state_dict().items())
        digests[name] = hashlib.sha256(b"".join(tensor.numpy().tobytes() for key, tensor in state if key.startswith(prefix))).hexdigest()
    return digests


def train_run(home_path: str, root_path: str, keys: str) -> None:
    """Train in ``root_path`` with the models of ``home_path``; ``keys`` is the JSON of overrides by dotted key."""
    warnings.filterwarnings("ignore")
    home, root, overrides = Path(home_path), Path(root_path), json.loads(keys)
    if overrides.get("own_disks"):  # machines that do not share the run directory
        root, OneRun.patience = root / os.environ["RANK"], 2.0
    if "file_bytes" in overrides:  # a full disk, for each file that this process writes
        resource.setrlimit(resource.RLIMIT_FSIZE, (overrides["file_bytes"], resource.RLIM_INFINITY))
    log_step = DestaModule._log_step

    def journaled(self, batch, loss, tokens, norm, lr):
        if self.global_rank == 0:
            with (root / "losses.jsonl").open("a") as file:
                file.write(json.dumps({"step": self.global_step, "loss": loss, "norm": norm, "rows": batch.row_ids}) + "\n")
        if self.model.perception is not None and not overrides.get("lora"):
            with (root / f"replica-{self.global_rank}.jsonl").open("a") as file:
                file.write(json.dumps({"step": self.global_step, **replica(self)}) + "\n")
        if overrides.get("die_at") == [self.global_rank, self.global_step]:
            os.kill(os.getpid(), signal.SIGKILL)
        if overrides.get("hang_at") == [self.global_rank, self.global_step]:
            time.sleep(600)
        log_step(self, batch, loss, tokens, norm, lr)

    DestaModule._log_step = journaled
    with say_errors("from the last checkpoint"):
        train(adapted(home, root, overrides))


if __name__ == "__main__":
    train_run(*sys.argv[1:])
