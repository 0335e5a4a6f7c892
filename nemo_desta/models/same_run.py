"""Whether a folder of checkpoints belongs to a configuration: only the run that it was begun with goes on in it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from nemo_desta.backbones.hf import has_native_bf16, resolve_dtype
from nemo_desta.config import DestaConfig, Overlong

# Keys of DataConfig that a resumed run may change.
INDIFFERENT = ("micro_batch_tokens", "num_workers", "taps_cache_gib", "max_bad_fraction", "manifest", "validation_manifest")
# Keys that came after the first runs, and what those did.
LATER = {"data.overlong": Overlong.skip.value}


def precision_name(name: str) -> str:
    """Lightning's name of a precision; `auto` is decided by the hardware."""
    return name if name != "auto" else "bf16-mixed" if has_native_bf16() else "32-true"


def decisive_settings(cfg: DestaConfig) -> dict[str, Any]:
    """What decides the result of a run, as plain data. What a machine with less memory or a slower disk needs can change from start to start."""
    tree = OmegaConf.to_container(OmegaConf.structured(cfg), resolve=True, enum_to_str=True)
    assert isinstance(tree, dict)
    decisive: dict[str, Any] = {key: tree[key] for key in ("seed", "model", "data", "optim")}
    for key in INDIFFERENT:
        del decisive["data"][key]
    for part, precision in (("llm", cfg.model.llm_precision), ("encoder", cfg.model.encoder_precision)):  # "auto" is another format on another machine
        del decisive["model"][f"{part}_precision"]
        decisive["model"][f"{part}_dtype"] = str(resolve_dtype(precision)).removeprefix("torch.")
    return {**decisive, "trainer": {"max_steps": tree["trainer"]["max_steps"], "precision": precision_name(tree["trainer"]["precision"])}}


def check_same_run(folder: Path, settings: dict[str, Any], targets_sha256: str) -> None:
    """Refuse to resume, or to call done, the run of another configuration or of other targets.

    Raises:
        ValueError: something differs, or nothing says what the checkpoints belong to.
    """
    remedy = f"remove {folder} to train anew, or choose another run_dir"
    path = _record(folder)
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
        before, targets_before = LATER | _flat(recorded["config"]), recorded["inputs"]["targets"].get("sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{folder} holds checkpoints, but no readable {path.name} says what they were trained on ({type(error).__name__}): {remedy}"
        ) from error
    now = _flat(settings)
    changed = [f"{key} was {before.get(key)!r}, is {now[key]!r}" for key in sorted(now) if before.get(key) != now[key]]
    if changed:
        raise ValueError(f"{folder} holds a run with another configuration (different: {', '.join(changed)}): {remedy}")
    if targets_before != targets_sha256:
        raise ValueError(f"{folder} holds a run on other targets (the file targets/cuts_train.jsonl.gz has changed since): {remedy}")


def _record(folder: Path) -> Path:
    """What says to which configuration the checkpoints of a folder belong.

    NeMo moves it to ``run_N`` when a run goes on, just before it is written again: a run killed in between has only the moved one, and so has a process
    that is slower than the first.
    """
    moved = sorted(folder.glob("run_*/manifest.json"), key=lambda path: path.stat().st_mtime)
    return next((path for path in (folder / "manifest.json", *reversed(moved)) if path.is_file()), folder / "manifest.json")


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names -> values."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
