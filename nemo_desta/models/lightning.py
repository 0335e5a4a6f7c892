"""The training module: one optimiser step a batch, exact in its loss, its gradient and its randomness.

The step itself is :func:`nemo_desta.models.steps.train_step`, a plain function; Lightning is the shell that brings loggers, checkpoints and resuming.
"""

import json
import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_cosine_with_min_lr_schedule_with_warmup

from nemo_desta.config import OptimConfig
from nemo_desta.data.dataset import Clip, StepBatch
from nemo_desta.data.taps_cache import TapsCache
from nemo_desta.models.desta import DestaModel
from nemo_desta.models.lines import keep_lines
from nemo_desta.models.optimizer import adapt_state, build_optimizer
from nemo_desta.models.steps import DataParallelSteps, ShardedSteps, Steps, is_distributed, reduce_sum
from nemo_desta.models.throughput import Cost, StepClock, peak_flops, peak_memory_bytes

logger = logging.getLogger(__name__)
SKIPPED = "rows.jsonl"  # a line a skipped row: its id, the reason, the step


class DestaModule(pl.LightningModule):
    """Trains the connector (and LoRA adapters) of a `DestaModel`.

    Args:
        model: the audio LLM.
        optim: optimiser and schedule.
        max_steps: optimiser steps of the whole run; the cosine ends there.
        seed: randomness of step n is a function of (seed, n, rank), so a resumed run draws what the uninterrupted one would have drawn.
        training_rows: rows of the training set, for the share of bad ones.
        max_bad_fraction: more skipped rows than this share of the training set is an error.
        report_dir: where the skipped rows are listed (`SKIPPED`).
        cache: takes the taps computed in a step.
        steps: how a step is taken; None = on plain processes.
    """

    def __init__(
        self,
        model: DestaModel,
        optim: OptimConfig,
        *,
        max_steps: int,
        seed: int,
        training_rows: int,
        max_bad_fraction: float,
        report_dir: Path,
        cache: TapsCache | None = None,
        steps: Steps | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self._steps = steps
        self.model, self.optim, self.max_steps, self.seed = model, optim, max_steps, seed
        self.training_rows, self.max_bad_fraction, self.report_dir, self.cache = training_rows, max_bad_fraction, report_dir, cache
        self.skipped: dict[str, str] = {}
        self._parameters_to_train = model.trainable_parameters()
        self._clock = StepClock()
        self._cost = Cost.of(model) if hasattr(model, "backbone") else None

    # -- optimiser ---------------------------------------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LRScheduler]]:
        """AdamW and cosine with warm-up (facts: the reference's FusedAdam in its default, decoupled mode)."""
        o = self.optim
        # A later pipeline stage trains nothing, but Lightning and the schedule want an optimiser everywhere.
        optimizer = build_optimizer(self._parameters_to_train or [torch.nn.Parameter(torch.zeros(1))], o)
        schedule = get_cosine_with_min_lr_schedule_with_warmup(
            optimizer, num_warmup_steps=min(o.warmup_steps, self.max_steps), num_training_steps=self.max_steps, min_lr=o.min_lr
        )
        return [optimizer], [schedule]

    # -- step --------------------------------------------------------------------------------------------------------------------------------------

    @property
    def steps(self) -> Steps:
        """How a step is taken."""
        if self._steps is not None:
            return self._steps
        kind = ShardedSteps if getattr(self.model.backbone, "sharded", False) else DataParallelSteps
        return kind(self.global_rank, self.device)

    def training_step(self, batch: StepBatch, batch_idx: int) -> None:
        """One optimiser step. ``batch`` is empty on a process that gets it from another."""
        batch = self.steps.share(batch)
        self._clock.data_arrived()
        self._count_skipped(batch)
        self.steps.seed(self.seed, self.global_step)
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        assert not isinstance(optimizer, list) and isinstance(schedule, LRScheduler)
        optimizer.zero_grad()
        self._cache_taps(batch)
        loss, tokens = self.steps.run(self.model, batch.micro_batches, self._parameters_to_train)
        norm = self.steps.clip(self._parameters_to_train, self.optim.grad_clip)
        optimizer.step()
        schedule.step()
        self._log_step(batch, loss, tokens, norm, float(schedule.get_last_lr()[0]))

    def _cache_taps(self, batch: StepBatch) -> None:
        """Compute the taps of clips not heard before, once a step however many micro-batches a clip is in, and keep them."""
        if self.cache is None:
            return
        fresh: dict[str, Clip] = {}
        for micro_batch in batch.micro_batches:
            for i, clip in enumerate(micro_batch.clips):
                if clip.taps_NTD is not None or clip.samples_T is None:  # known, or another process's to encode
                    continue
                if clip.key not in fresh:
                    taps = self.model.encode_clip(clip.samples_T)
                    self.cache.put(clip.key, taps.cpu())
                    fresh[clip.key] = Clip(clip.key, taps_NTD=taps)
                micro_batch.clips[i] = fresh[clip.key]

    def _log_step(self, batch: StepBatch, loss: float, tokens: int, norm: float, lr: float) -> None:
        frames, encoder_seconds = self.model.meter.take()
        times = self._clock.finish(encoder_seconds)
        seconds = times["seconds"]
        rows = self.steps.sum(len(batch.row_ids))
        packed = self.steps.sum(sum(m.tokens.num_tokens for m in batch.micro_batches))
        filling = self.steps.sum(self.steps.filling(batch.micro_batches))
        audio = self.steps.sum(batch.audio_seconds)
        values = {
            "train/loss": loss,
            "train/grad_norm": norm,
            "train/lr": lr,
            "train/clips_per_second": rows / seconds,
            "train/tokens_per_second": packed / seconds,
            "train/audio_seconds_per_second": audio / seconds,
            "train/audio_hours_per_hour": audio / seconds,
            "train/padding_fraction": frame_padding(batch),
            "train/filling_fraction": filling / max(packed + filling, 1.0),
            "train/step_seconds": seconds,
            **{f"time/{name}": share for name, share in times.items() if name != "seconds"},
            "train/memory_peak_gib": peak_memory_bytes(self.device) / 2**30,
            **self._utilisation(packed, tokens, frames, seconds),
            "train/target_tokens": float(tokens),
            "train/skipped_rows": float(len(self.skipped)),
        }
        self.log_dict(values, batch_size=1)
        self.log_dict({"loss": loss, "grad_norm": norm, "clips/s": rows / seconds}, prog_bar=True, logger=False, batch_size=1)

    def _utilisation(self, tokens: float, labels: int, frames: int, seconds: float) -> dict[str, float]:
        """Model FLOP/s over all processes, and their share of the devices' peak where that is known (`throughput` states the convention)."""
        if self._cost is None:
            return {}
        flops = self._cost.flops(tokens, labels, 0.0) + self.steps.sum_all(self._cost.frame * frames)
        peak = peak_flops(self.device)
        world = self.trainer.world_size if self._trainer is not None else 1
        achieved = {"train/model_tflops": flops / seconds / 1e12}
        return achieved if peak is None else {**achieved, "train/model_flop_utilisation": flops / seconds / (peak * world)}

    # -- bad clips ---------------------------------------------------------------------------------------------------------------------------------

    def _count_skipped(self, batch: StepBatch) -> None:
        """List the rows left out; too many of them, over all processes, end the run on all of them together (contract C6)."""
        fresh = self._fresh_skipped(batch)
        if not fresh:
            return
        self.skipped |= fresh
        if self.global_rank == 0:
            self._list_skipped(fresh)
        if len(self.skipped) > self.max_bad_fraction * self.training_rows:
            first = "; ".join(f"{row}: {why}" for row, why in list(self.skipped.items())[:5])
            raise ValueError(
                f"{len(self.skipped)} of {self.training_rows} training rows could not be used, more than data.max_bad_fraction={self.max_bad_fraction}. "
                f"All are listed in {self.report_dir / SKIPPED}; the first: {first}"
            )

    def _fresh_skipped(self, batch: StepBatch) -> dict[str, str]:
        """Rows that any process has left out for the first time, with the reasons: the same on every process."""
        fresh = {row: why for row, why in batch.skipped if row not in self.skipped}
        if reduce_sum(len(fresh), self.device) == 0 or not is_distributed():
            return fresh
        parts: list[dict[str, str]] = [{} for _ in range(dist.get_world_size())]
        dist.all_gather_object(parts, fresh)
        return {row: why for part in parts for row, why in part.items()}

    def _list_skipped(self, fresh: dict[str, str]) -> None:
        self.report_dir.mkdir(parents=True, exist_ok=True)
        with (self.report_dir / SKIPPED).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({"row": row, "reason": why, "step": self.global_step}) + "\n" for row, why in fresh.items())
        logger.warning("%d rows skipped so far, now %s", len(self.skipped), "; ".join(f"{row}: {why}" for row, why in list(fresh.items())[:3]))

    # -- checkpoint --------------------------------------------------------------------------------------------------------------------------------

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Only what is trained, under the published names (contract C4), whole on the process that writes."""
        return self.steps.trained_state(self.model)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> None:  # type: ignore[override]
        """Fill this process's part of the trained tensors; every one must be there."""
        self.steps.load_trained(self.model, state_dict)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["skipped_rows"] = dict(self.skipped)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._parameters_to_train and "optimizer_states" in checkpoint:  # saved with Apex's optimiser and loaded without it, or the other way round
            optimizer = build_optimizer(self._parameters_to_train, self.optim)
            checkpoint["optimizer_states"] = [adapt_state(state, optimizer) for state in checkpoint["optimizer_states"]]
        self.skipped = dict(checkpoint.get("skipped_rows", {}))

    def on_train_start(self) -> None:
        self.model.train()  # Lightning leaves modes as they are, and frozen parts are built in eval mode: adapters' dropout and recomputation would be off
        if self.global_rank == 0:
            keep_lines(self.report_dir / SKIPPED, lambda line: line["row"] in self.skipped)  # rows skipped after the checkpoint will be met again
        self._clock = StepClock()


def frame_padding(batch: StepBatch) -> float:
    """Share of the connector's input frames that are padding; token sequences are packed and have none."""
    real = padded = 0
    for micro_batch in batch.micro_batches:
        frames = [_frames(clip) for clip in micro_batch.clips if clip.taps_NTD is not None or clip.samples_T is not None]  # own clips
        real += sum(frames)
        padded += max(frames, default=0) * len(frames)
    return 1.0 - real / padded if padded else 0.0


def _frames(clip: Clip) -> int:
    """Encoder frames of a clip, or its samples where it has not been encoded: either way proportional to its length."""
    return clip.taps_NTD.shape[1] if clip.taps_NTD is not None else 0 if clip.samples_T is None else clip.samples_T.numel()
