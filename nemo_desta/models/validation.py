"""Held-out loss and some answers while a model is trained, with either backbone and under any layout.

A callback between two steps, not Lightning's validation loop: it draws from no sampler of the training and keeps its randomness, and so changes nothing in it
(contract C6).
"""

import json
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lhotse import CutSet
from lhotse.cut.data import DataCut
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from nemo_desta.config import TrainerConfig
from nemo_desta.data.dataset import DestaDataset, StepBatch, training_units
from nemo_desta.data.supervision import self_generated
from nemo_desta.manifests.store import IndexedStore
from nemo_desta.models.lightning import DestaModule
from nemo_desta.models.lines import keep_lines
from nemo_desta.parallel.topology import Topology

logger = logging.getLogger(__name__)
FILE = "records.jsonl"  # a line a validation
NOTHING = StepBatch([], [])


class Validate(Callback):
    """Every few steps the loss over some held-out rows, and the answers to a few of them: the same rows every time.

    Args:
        cuts: held-out cuts with self-generated rows.
        dataset: makes batches of them, as in training.
        cfg: how often, how much.
        batch_rows: of a global batch.
        seed: of the choice of rows.
        folder: where the lines are written.
        progress: told before each part, for a run that is watched.
        topology: where this process stands among those that share the model; None = every process has its own rows.

    Raises:
        ValueError: no held-out rows.
    """

    def __init__(
        self,
        cuts: CutSet | IndexedStore,
        dataset: DestaDataset,
        cfg: TrainerConfig,
        *,
        batch_rows: int,
        seed: int,
        folder: Path,
        progress: Callable[[pl.Trainer, str], None],
        topology: Topology | None = None,
    ) -> None:
        self.dataset, self.cfg, self.batch_rows, self.folder, self.progress, self.topology = dataset, cfg, batch_rows, folder, progress, topology
        self.units = choose(cuts, rows=cfg.validation_batches * batch_rows, seed=seed)
        if not self.units:
            raise ValueError("data.validation_manifest holds no self-generated rows: give cuts with targets, held out from those of the training")
        self._batches: list[StepBatch] | None = None
        self._prompts = NOTHING

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            keep_lines(self.folder / FILE, lambda line: line["step"] <= trainer.global_step)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert isinstance(pl_module, DestaModule)
        if trainer.global_step % self.cfg.validate_every_steps == 0:
            devices = [pl_module.device] if pl_module.device.type == "cuda" else []
            with torch.random.fork_rng(devices=devices), trainer.precision_plugin.val_step_context():
                pl_module.model.eval()
                record = self.measure(trainer, pl_module)
                pl_module.model.train()
            if trainer.is_global_zero:
                self._write(trainer, record)

    def measure(self, trainer: pl.Trainer, module: DestaModule) -> dict[str, Any]:
        """Loss and answers; all processes call this, and the first one gets the whole."""
        batches = self._read(trainer, module)
        total, tokens = 0.0, 0
        for batch in batches:
            self.progress(trainer, "validating")
            own_total, own_tokens = module.steps.evaluate(module.model, module.steps.share(batch).micro_batches)
            total, tokens = total + own_total, tokens + own_tokens
        self.progress(trainer, "answering held-out questions")
        ids = module.steps.answer(module.model, self._prompts, max_new_tokens=self.cfg.validation_new_tokens) if self.cfg.validation_answers else []
        answers = self._answers([module.model.tokenizer.decode(answer, skip_special_tokens=True).strip() for answer in ids]) if trainer.is_global_zero else []
        skipped = int(module.steps.sum(sum(len(batch.skipped) for batch in batches)))
        return {"step": trainer.global_step, "loss": total / max(tokens, 1), "tokens": tokens, "skipped": skipped, "answers": answers}

    def _read(self, trainer: pl.Trainer, module: DestaModule) -> list[StepBatch]:
        """This process's share of the rows, read once and kept; nothing on a process that gets its part from another."""
        if self._batches is None:
            rank, world = (self.topology.data, self.topology.data_size) if self.topology is not None else (trainer.global_rank, trainer.world_size)
            reads = self.topology is None or self.topology.reads_data
            whole = [self.units[at : at + self.batch_rows] for at in range(0, len(self.units), self.batch_rows)]
            self._batches = [self.dataset[CutSet.from_cuts(units[rank::world])] if reads else NOTHING for units in whole]
            if module.steps.asks:
                self._prompts = self.dataset.prompts(CutSet.from_cuts(self.units[: self.cfg.validation_answers]))
        return self._batches

    def _answers(self, texts: Sequence[str]) -> list[dict[str, str]]:
        rows = {row.id: row for unit in self.units[: self.cfg.validation_answers] for row in self_generated(unit)}
        asked = [rows[row_id] for row_id in self._prompts.row_ids] if texts else []  # without those that cannot be used
        return [
            {"row": row.id, "question": (row.custom or {})["messages"][-1]["content"], "wanted": row.text or "", "answer": text}
            for row, text in zip(asked, texts, strict=True)
        ]

    def _write(self, trainer: pl.Trainer, record: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
        logger.info("step %d: held-out loss %.4f over %d tokens", record["step"], record["loss"], record["tokens"])
        for log in trainer.loggers:
            log.log_metrics({"validation/loss": record["loss"]}, step=record["step"])
            if isinstance(log, TensorBoardLogger):
                log.experiment.add_text("validation/answers", _table(record["answers"]), record["step"])


def choose(cuts: CutSet | IndexedStore, *, rows: int, seed: int) -> list[DataCut]:
    """Held-out units of one row each, at most ``rows`` of them: a function of the seed, the same on every process."""
    numbers = list(range(len(cuts)))
    random.Random(f"validation/{seed}").shuffle(numbers)
    chosen: list[DataCut] = []
    for cut in _picked(cuts, numbers):
        chosen += training_units(CutSet.from_cuts([cut]))
        if len(chosen) >= rows:
            break
    return chosen[:rows]


def _picked(cuts: CutSet | IndexedStore, numbers: Sequence[int]) -> Iterable[DataCut]:
    return map(cuts.cut, numbers) if isinstance(cuts, IndexedStore) else map(list(cuts).__getitem__, numbers)


def _table(answers: Sequence[dict[str, str]]) -> str:
    """Markdown for TensorBoard."""
    lines = ["| " + " | ".join(" ".join(entry[key].split()).replace("|", "\\|") for key in ("question", "wanted", "answer")) + " |" for entry in answers]
    return "\n".join(["| question | wanted | answer |", "| --- | --- | --- |", *lines])
