"""A training run from its configuration: data, model, Lightning trainer and NeMo's experiment manager."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lhotse import CutSet
from lightning.pytorch.callbacks import Callback
from omegaconf import OmegaConf

from nemo_desta.checkpoint import latest_checkpoint
from nemo_desta.checkpoint.lightning_io import DirectoryCheckpointIO
from nemo_desta.config import DestaConfig
from nemo_desta.data.datamodule import DestaDataModule
from nemo_desta.data.taps_cache import CACHE_DTYPE, TapsCache
from nemo_desta.models.desta import DestaModel
from nemo_desta.models.lightning import DestaModule
from nemo_desta.provenance import manifest, write_json_atomic

logger = logging.getLogger(__name__)


def train(cfg: DestaConfig) -> Path:
    """Train the connector on the targets of ``run_dir``, or go on where a killed run stopped.

    Returns:
        The last checkpoint.

    Raises:
        ValueError: there are no targets, or the run directory belongs to another configuration.
    """
    folder = Path(cfg.run_dir) / "train"
    settings = _settings(cfg)
    done = latest_checkpoint(folder)
    if done is not None:
        _check_same_run(folder, settings)
        if f"step={cfg.trainer.max_steps}" in done.name:
            logger.info("training is done: %s", done)
            return done
    if cfg.trainer.num_threads:
        torch.set_num_threads(cfg.trainer.num_threads)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)  # the fresh connector is a function of the seed
    model = DestaModel.from_config(cfg.model, max_transcript_tokens=cfg.data.max_transcript_tokens)
    cache = _taps_cache(cfg, model)
    cuts = load_targets(Path(cfg.run_dir))
    data = DestaDataModule(cuts, model.tokenizer, model.layout, cfg.data, max_steps=cfg.trainer.max_steps, seed=cfg.seed, cache=cache)
    module = DestaModule(
        model,
        cfg.optim,
        max_steps=cfg.trainer.max_steps,
        seed=cfg.seed,
        training_rows=data.num_rows,
        max_bad_fraction=cfg.data.max_bad_fraction,
        report_dir=folder,
        cache=cache,
    )
    trainer = make_trainer(cfg, module)
    folder.mkdir(parents=True, exist_ok=True)
    targets = {"targets": Path(cfg.run_dir) / "targets" / "cuts_train.jsonl.gz"}
    write_json_atomic(folder / "manifest.json", manifest(settings, targets, rows=data.num_rows))
    trainer.fit(module, data, ckpt_path=trainer.ckpt_path)
    last = latest_checkpoint(folder)
    if trainer.interrupted or last is None:
        raise KeyboardInterrupt
    return last


def load_targets(run_dir: Path) -> CutSet:
    """The training cuts with their self-generated supervisions.

    Raises:
        ValueError: they have not been written yet.
    """
    path = run_dir / "targets" / "cuts_train.jsonl.gz"
    if not path.is_file():
        raise ValueError(f"no training targets at {path}: run examples/generate_targets.py with the same --config-name first")
    return CutSet.from_file(path)


def make_trainer(cfg: DestaConfig, module: DestaModule) -> pl.Trainer:
    """A Lightning trainer under NeMo's experiment manager: loggers, checkpoints, resuming."""
    t = cfg.trainer
    trainer = pl.Trainer(
        accelerator=t.accelerator,
        devices=t.devices,
        num_nodes=t.num_nodes,
        strategy=t.strategy,
        precision=t.precision,  # type: ignore[arg-type]
        max_steps=t.max_steps,
        max_epochs=-1,
        log_every_n_steps=t.log_every_steps,
        limit_val_batches=0,
        use_distributed_sampler=False,  # every process walks the same global batches
        logger=False,
        enable_checkpointing=False,
        plugins=[DirectoryCheckpointIO(lambda: module.model.config)],
        callbacks=[SaveAtEnd()],
        enable_model_summary=False,
    )
    _attach_experiment(cfg, trainer)
    return trainer


def _attach_experiment(cfg: DestaConfig, trainer: pl.Trainer) -> None:
    from nemo.utils.exp_manager import exp_manager  # heavy, and only training needs it

    t = cfg.trainer
    folder = Path(cfg.run_dir).resolve() / "train"
    checkpoints = {
        "filename": "{step}",
        "monitor": "step",
        "mode": "max",
        "save_top_k": t.keep_checkpoints,
        "save_last": False,
        "every_n_train_steps": t.checkpoint_every_steps,
        "every_n_epochs": 0,
        "save_nemo_on_train_end": False,
    }
    last = latest_checkpoint(folder)
    settings: dict[str, Any] = {
        "explicit_log_dir": str(folder),
        "name": cfg.name,
        "create_tensorboard_logger": t.tensorboard,
        "create_wandb_logger": t.wandb,
        "wandb_logger_kwargs": {"name": cfg.name, "project": t.wandb_project},
        "create_checkpoint_callback": True,
        "checkpoint_callback_params": checkpoints,
        "resume_from_checkpoint": str(last) if last is not None else None,
        "log_step_timing": False,
        "log_tflops_per_sec_per_gpu": False,
    }
    exp_manager(trainer, OmegaConf.create(settings))


class SaveAtEnd(Callback):
    """A checkpoint at the last step and when the run is interrupted, whatever the interval."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        folder = Path(str(trainer.checkpoint_callback.dirpath)) / f"step={trainer.global_step}.ckpt"  # type: ignore[union-attr]
        if trainer.global_step > 0 and not folder.exists():
            trainer.save_checkpoint(folder)


def _taps_cache(cfg: DestaConfig, model: DestaModel) -> TapsCache | None:
    if cfg.data.taps_cache_gib <= 0:
        return None
    model.taps_cache_dtype = CACHE_DTYPE
    return TapsCache(Path(cfg.run_dir) / "taps", encoder_id=encoder_id(model), max_bytes=int(cfg.data.taps_cache_gib * 2**30))


def encoder_id(model: DestaModel) -> str:
    """Fingerprint of what decides a clip's taps: encoder weights, tap layers and padding."""
    encoder = model.perception.encoder
    digest = hashlib.sha256(f"{encoder.taps}/{encoder.pad_to}".encode())
    for name, tensor in encoder.state_dict().items():  # type: ignore[attr-defined]
        digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.double().sum().item():.6f}".encode())
    return digest.hexdigest()[:16]


def _settings(cfg: DestaConfig) -> dict[str, Any]:
    """What decides the result of a run, as plain data."""
    plain = OmegaConf.to_container(OmegaConf.structured(cfg), resolve=True, enum_to_str=True)
    assert isinstance(plain, dict)
    decisive = {key: plain[key] for key in ("seed", "model", "data", "optim")}
    return {**decisive, "max_steps": plain["trainer"]["max_steps"]}


def _check_same_run(folder: Path, settings: dict[str, Any]) -> None:
    """Refuse to resume another configuration's run."""
    path = folder / "manifest.json"
    if not path.is_file():
        return
    before = json.loads(path.read_text(encoding="utf-8"))["config"]
    changed = sorted(key for key in settings if before.get(key) != settings[key])
    if changed:
        raise ValueError(f"{folder} holds a run with another configuration (different: {changed}): choose another run_dir, or remove that folder")
