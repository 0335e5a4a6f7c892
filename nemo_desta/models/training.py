"""A training run from its configuration: data, model, Lightning trainer and NeMo's experiment manager."""

import hashlib
import logging
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lhotse import CutSet
from lhotse.cut import Cut
from lightning.pytorch.callbacks import Callback
from omegaconf import OmegaConf

from nemo_desta.checkpoint import latest_checkpoint, step_of
from nemo_desta.checkpoint.lightning_io import DirectoryCheckpointIO, resumable_checkpoint
from nemo_desta.config import BackboneKind, DataParallelKind, DestaConfig, ParallelConfig, TrainerConfig
from nemo_desta.corpora.manifests import UNKNOWN_FIELD, read_cuts
from nemo_desta.data.datamodule import DestaDataModule
from nemo_desta.data.taps_cache import CACHE_DTYPE, TapsCache
from nemo_desta.manifests.sources import Problems
from nemo_desta.manifests.sources import cuts as read_any_cuts
from nemo_desta.manifests.store import DESCRIPTION, IndexedStore, read_description
from nemo_desta.models.calibration import calibrate_taps
from nemo_desta.models.desta import DestaModel
from nemo_desta.models.interruption import SaveAndStop
from nemo_desta.models.lightning import DestaModule
from nemo_desta.models.one_run import OneRun
from nemo_desta.models.same_run import check_same_run, decisive_settings, precision_name
from nemo_desta.models.steps import Steps
from nemo_desta.models.validation import Validate
from nemo_desta.models.watching import WatchProgress
from nemo_desta.parallel.launch import detect_launch, is_first_process
from nemo_desta.parallel.plan import ParallelSizes
from nemo_desta.parallel.topology import Topology, start
from nemo_desta.parallel.watchdog import GROUP_FACTOR
from nemo_desta.provenance import manifest, sha256_file, write_json_atomic

logger = logging.getLogger(__name__)


def train(cfg: DestaConfig) -> Path:
    """Train the connector on the targets of ``run_dir``, or go on where a killed run stopped.

    Returns:
        The last checkpoint.

    Raises:
        ValueError: there are no readable targets, or the run directory belongs to another configuration or to other targets.
        OSError: a checkpoint cannot be written.
        KeyboardInterrupt: Ctrl-C or SIGTERM; what was trained is saved.
    """
    with SaveAndStop() as stop:
        done = _train(cfg, stop)
    if is_first_process():
        logger.info("checkpoint: %s", done)
    return done


def _train(cfg: DestaConfig, stop: SaveAndStop) -> Path:
    folder, settings = Path(cfg.run_dir) / "train", decisive_settings(cfg)
    targets = targets_file(Path(cfg.run_dir), cfg.data.manifest)
    if latest_checkpoint(folder) is not None:
        check_same_run(folder, settings, sha256_file(targets))
        last = resumable_checkpoint(folder)
        if last is not None and (step_of(last) or 0) >= cfg.trainer.max_steps:
            return last  # nothing left to do
    problems: list[str] = []
    cuts = load_targets(Path(cfg.run_dir), cfg.data.manifest, problems=problems)
    topology = start_parallel(cfg.parallel, cfg.trainer, seed=cfg.seed)
    module, data = _module_and_data(cfg, cuts, topology)
    watch = WatchProgress(cfg.parallel.timeout_seconds)
    record = folder / "manifest.json"
    # Nothing is watched before all are in one run; `stop` waits for the others: progress is told before.
    callbacks = [OneRun(record), watch, *_validation(cfg, data, topology, watch), stop]
    trainer = make_trainer(cfg, module, callbacks, topology)
    if trainer.ckpt_path is None:  # a resumed run has the statistics of its checkpoint
        calibrate_taps(module.model, cuts, seed=cfg.seed, cache=module.cache)
    folder.mkdir(parents=True, exist_ok=True)
    if trainer.is_global_zero:
        write_json_atomic(record, manifest(settings, {"targets": targets}, rows=data.num_rows, problems_of_targets=problems))
    try:
        trainer.fit(module, data, ckpt_path=trainer.ckpt_path)
    except SystemExit as error:  # Lightning's own answer to a KeyboardInterrupt
        raise KeyboardInterrupt from error
    done = latest_checkpoint(folder)
    if done is None or trainer.global_step < cfg.trainer.max_steps:
        raise KeyboardInterrupt
    return done


def start_parallel(parallel: ParallelConfig, trainer: TrainerConfig, *, seed: int) -> Topology | None:
    """Join the other processes, where the LLM is shared by several; None with the hf backbone.

    Raises:
        ValueError: backbone, sizes and number of processes do not go together.
    """
    sizes = ParallelSizes(parallel.tp, parallel.pp, parallel.virtual_pp, parallel.sequence_parallel)
    kind = parallel.backbone
    if kind == BackboneKind.hf or (kind == BackboneKind.auto and sizes.model == 1):
        _check_hf(parallel, trainer, sizes)
        return None
    if parallel.data_parallel == DataParallelKind.fsdp2:
        raise ValueError("parallel.data_parallel=fsdp2 is for the hf backbone: set parallel.backbone=hf, or raise parallel.tp and pp to save memory")
    launch = detect_launch()
    if not launch.external and launch.unconnected > 1:
        raise ValueError(
            f"Slurm has SLURM_NTASKS={launch.unconnected} processes for this program, but none knows of the others: the megatron backbone is started by "
            "torchrun, one on every node (tools/slurm/train.sbatch)"
        )
    if not launch.external and trainer.devices * trainer.num_nodes > 1:
        raise ValueError("the megatron backbone is started by torchrun: torchrun --nproc-per-node N examples/train_desta.py ..., without trainer.devices")
    if trainer.strategy not in ("auto", "ddp"):
        raise ValueError(f"trainer.strategy={trainer.strategy} is for the hf backbone: leave it out with parallel.backbone=megatron")
    return start(sizes, timeout_seconds=GROUP_FACTOR * parallel.timeout_seconds, seed=seed)


def _check_hf(parallel: ParallelConfig, trainer: TrainerConfig, sizes: ParallelSizes) -> None:
    """Refuse what the hf backbone does not do.

    Raises:
        ValueError: a key asks for it; the message names the key, and what to set.
    """
    if sizes.model > 1:
        raise ValueError(f"parallel.backbone=hf cannot be cut into parallel.tp={sizes.tp} x parallel.pp={sizes.pp}: set parallel.backbone=megatron")
    for key in ("recompute", "transformer_engine"):
        if getattr(parallel, key):
            raise ValueError(f"parallel.{key}=true is for the megatron backbone: set parallel.backbone=megatron, or leave it out")
    if parallel.data_parallel == DataParallelKind.fsdp2 and trainer.strategy != "auto":
        raise ValueError(f"parallel.data_parallel=fsdp2 brings its own strategy: leave trainer.strategy={trainer.strategy} out")


def _module_and_data(cfg: DestaConfig, cuts: CutSet | IndexedStore, topology: Topology | None) -> tuple[DestaModule, DestaDataModule]:
    steps = cfg.trainer.max_steps
    if cfg.trainer.num_threads:
        torch.set_num_threads(cfg.trainer.num_threads)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)  # the fresh connector is a function of the seed
    model = DestaModel.from_config(
        cfg.model,
        max_transcript_tokens=cfg.data.max_transcript_tokens,
        topology=topology,
        recompute=cfg.parallel.recompute,
        transformer_engine=cfg.parallel.transformer_engine,
    )
    cache = _taps_cache(cfg, model)
    data = DestaDataModule(cuts, model.tokenizer, model.layout, cfg.data, max_steps=steps, seed=cfg.seed, cache=cache, topology=topology)
    module = DestaModule(
        model,
        cfg.optim,
        max_steps=steps,
        seed=cfg.seed,
        training_rows=data.num_rows,
        max_bad_fraction=cfg.data.max_bad_fraction,
        report_dir=Path(cfg.run_dir) / "train" / "skipped",  # a folder of its own: NeMo moves the files of `train` away when a run goes on
        cache=cache,
        steps=_steps(topology),
    )
    return module, data


def targets_file(run_dir: Path, manifest: str | None = None, *, key: str = "data.manifest") -> Path:
    """The file that stands for the training cuts of a run: their manifest, or the description of an indexed store, which holds the SHA-256 of every shard.

    Args:
        run_dir: of the run.
        manifest: `data.manifest`; None = the targets that the run's own backbone wrote.
        key: of the configuration that names the manifest.

    Raises:
        ValueError: they have not been written yet.
    """
    if manifest is not None:
        path = Path(manifest)
        if path.is_dir():
            read_description(path)  # says what is missing
            return path / DESCRIPTION
        if not path.is_file():
            raise ValueError(f"{key}={manifest}: no such file or indexed store (tools/manifests.py import-aqa5m or index makes one)")
        return path
    path = run_dir / "targets" / "cuts_train.jsonl.gz"
    if not path.is_file():
        raise ValueError(f"no training targets at {path}: run examples/generate_targets.py with the same --config-name first")
    return path


def load_targets(
    run_dir: Path, manifest: str | None = None, *, problems: list[str] | None = None, key: str = "data.manifest"
) -> CutSet | IndexedStore:
    """The training cuts with their self-generated supervisions. Fields that Lhotse does not know are left out, with a warning.

    Args:
        run_dir: of the run.
        manifest: `data.manifest`; an indexed store is opened, not read.
        problems: where given, one sentence per unknown field name is appended to it.
        key: of the configuration that names the manifest.

    Raises:
        ValueError: they have not been written yet, or the file is cut off or damaged: to train on a part of the targets would go unnoticed; or their audio
            lies in the tar files of a Shar folder.
    """
    path = targets_file(run_dir, manifest, key=key)
    if path.name == DESCRIPTION:
        store = IndexedStore(path.parent)
        _refuse_shar(_first_cuts(store), f"{key}={manifest}")
        return store
    if manifest is not None:
        cuts = _read_whole(path, key)
        _refuse_shar(cuts, f"{key}={manifest}")
        return cuts
    remedy = f"remove {path} and run examples/generate_targets.py with the same --config-name again (its journal of answers is kept)"
    found: list[str] = []
    try:
        cuts = read_cuts(path, problems=found)
    except ValueError as error:
        raise ValueError(f"the training targets are damaged ({error}): {remedy}") from error
    lost = [problem for problem in found if UNKNOWN_FIELD not in problem]
    if lost:
        raise ValueError(f"the training targets are damaged, {len(lost)} lines cannot be read ({lost[0]}): {remedy}")
    if len(cuts) == 0:
        raise ValueError(f"{path} holds no cut: {remedy}")
    if problems is not None:
        problems += found
    return cuts


def _first_cuts(store: IndexedStore) -> Iterator[Cut]:
    """The first cut of every shard: a shard has one origin, and five million cuts are not read for it. A damaged line is left to the data workers."""
    number = 0
    for shard in store.description["shards"]:
        if shard["lines"]:
            with suppress(ValueError):
                yield store.cut(number)
        number += shard["lines"]


def _refuse_shar(cuts: Iterable[Cut], name: str) -> None:
    """Refuse cuts with placeholders in place of their audio, or every clip would be a bad one.

    Raises:
        ValueError: there is such a cut.
    """
    for cut in cuts:
        recording = getattr(cut, "recording", None)
        if recording is not None and any(source.type == "shar" for source in recording.sources):
            raise ValueError(
                f"{name}: the audio of {cut.id!r} lies in the tar files of a Shar folder, which training does not read: generate the targets from the JSONL "
                "file or indexed store that was sharded (ray.input), or write the audio into files of its own (docs/targets.md, From a Shar folder)"
            )


def _read_whole(path: Path, key: str) -> CutSet:
    """The cuts of a JSONL file that a key of the configuration names.

    Raises:
        ValueError: a part of it cannot be read, or it holds no cut.
    """
    found = Problems()
    cuts = CutSet.from_cuts(read_any_cuts(path, found))
    if len(found):
        raise ValueError(f"{key}={path} is damaged, {len(found)} problems ({found.sentences[0]}): copy it anew, or repeat the step that wrote it")
    if len(cuts) == 0:
        raise ValueError(f"{key}={path} holds no cut")
    return cuts


def _profiler(steps: int, folder: Path) -> Any:
    """PyTorch's profiler over a few steps; None = no profile."""
    if steps == 0:
        return None
    from lightning.pytorch.profilers import PyTorchProfiler

    return PyTorchProfiler(dirpath=folder, filename="steps", schedule=torch.profiler.schedule(wait=1, warmup=1, active=steps, repeat=1), export_to_chrome=True)


def _steps(topology: Topology | None) -> Steps | None:
    """How steps are taken where the LLM is shared; None = on plain processes."""
    if topology is None:
        return None
    from nemo_desta.models.parallel_steps import ParallelSteps  # brings megatron-core, which takes seconds to import

    return ParallelSteps(topology)


def _strategy(cfg: DestaConfig, topology: Topology | None) -> Any:
    """Lightning's name of a strategy, or the object that knows how the weights are shared out."""
    if topology is None and cfg.parallel.data_parallel == DataParallelKind.ddp:
        return cfg.trainer.strategy
    if topology is None:
        from nemo_desta.parallel.sharded_strategy import ShardedStrategy

        return ShardedStrategy()
    from nemo_desta.parallel.strategy import MegatronStrategy  # brings megatron-core

    return MegatronStrategy(topology)


def _validation(cfg: DestaConfig, data: DestaDataModule, topology: Topology | None, watch: WatchProgress) -> list[Callback]:
    """The callback for held-out rows, where it is asked for.

    Raises:
        ValueError: no held-out rows are named, or they cannot be read.
    """
    if cfg.trainer.validate_every_steps <= 0:
        return []
    if cfg.data.validation_manifest is None:
        raise ValueError(
            f"trainer.validate_every_steps={cfg.trainer.validate_every_steps} needs held-out rows: set data.validation_manifest "
            "(tools/manifests.py split cuts targets by speaker or source), or validate_every_steps=0"
        )
    cuts = load_targets(Path(cfg.run_dir), cfg.data.validation_manifest, key="data.validation_manifest")
    validate = Validate(
        cuts,
        data.dataset.without_cache(),
        cfg.trainer,
        batch_rows=cfg.data.batch_rows,
        seed=cfg.seed,
        folder=Path(cfg.run_dir) / "train" / "validation",  # of its own, likewise
        progress=watch.progress,
        topology=topology,
    )
    return [validate]


def make_trainer(cfg: DestaConfig, module: DestaModule, callbacks: list[Callback], topology: Topology | None = None) -> pl.Trainer:
    """A Lightning trainer under NeMo's experiment manager: loggers, checkpoints, resuming."""
    t, launch = cfg.trainer, detect_launch()
    trainer = pl.Trainer(
        accelerator=t.accelerator,
        devices=launch.local if launch.external else t.devices,
        num_nodes=launch.nodes if launch.external else t.num_nodes,
        strategy=_strategy(cfg, topology),
        precision=precision_name(t.precision),  # type: ignore[arg-type]
        max_steps=t.max_steps,
        max_epochs=-1,
        log_every_n_steps=t.log_every_steps,
        limit_val_batches=0,
        use_distributed_sampler=False,  # every process walks the same global batches
        logger=False,
        enable_checkpointing=False,
        plugins=[DirectoryCheckpointIO(lambda: module.model.config)],
        profiler=_profiler(t.profile_steps, Path(cfg.run_dir) / "train" / "profile"),
        callbacks=callbacks,
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
    last = latest_checkpoint(folder, resumable=True)
    settings: dict[str, Any] = {
        "explicit_log_dir": str(folder),
        "name": cfg.name,
        "create_tensorboard_logger": t.tensorboard,
        "create_wandb_logger": t.wandb,
        "wandb_logger_kwargs": {"name": cfg.name, "project": t.wandb_project},
        "create_checkpoint_callback": True,
        "create_preemption_callback": False,  # SaveAndStop does that, also without a GPU
        "checkpoint_callback_params": checkpoints,
        "resume_from_checkpoint": str(last) if last is not None else None,
        "log_step_timing": False,
        "log_tflops_per_sec_per_gpu": False,
    }
    exp_manager(trainer, OmegaConf.create(settings))


def _taps_cache(cfg: DestaConfig, model: DestaModel) -> TapsCache | None:
    if cfg.data.taps_cache_gib <= 0 or model.perception is None:
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
