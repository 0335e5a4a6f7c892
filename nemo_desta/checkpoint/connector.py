"""Reading and writing checkpoint directories (contract C4).

A checkpoint is ``config.json`` + ``model.safetensors`` with only what was trained, under the published checkpoint's tensor names, so that the reference
code reads ours and we read ``DeSTA-ntu/DeSTA2.5-Audio-Llama-3.1-8B``. The backbone and the encoder come from their own places, named in the config.
"""

import json
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

logger = logging.getLogger(__name__)

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
TRAINING_STATE = "training_state"
UNFINISHED = "-unfinished"  # suffix of the marker that NeMo's checkpoint callback sets while it saves or removes
CONNECTOR_PREFIX = "perception.connector."
LORA_PREFIX = "llm_model."  # the reference's attribute name of the backbone


@dataclass
class CheckpointConfig:
    """``config.json``: the reference's keys, and ours under ``nemo_desta`` (which the reference ignores)."""

    llm_model_id: str
    encoder_model_id: str
    qformer_num_hidden_layers: int = 6
    prompt_size: int = 64
    connector_mode: str = "qformer_1"
    use_lora: bool = False
    audio_locator: str = "<|AUDIO|>"
    placeholder_token: str = "<|reserved_special_token_87|>"
    llm_config: dict[str, Any] = field(default_factory=dict)
    encoder_config: dict[str, Any] = field(default_factory=dict)
    model_type: str = "desta25"
    architectures: list[str] = field(default_factory=lambda: ["DeSTA25AudioModel"])
    nemo_desta: dict[str, Any] = field(default_factory=dict)  # taps, pad_to, ffn_size, dropout, max_transcript_tokens, lora, version

    @classmethod
    def from_json(cls, text: str) -> "CheckpointConfig":
        """Parse ``config.json``; keys of other writers (train_id, commit, transformers_version, ...) are dropped.

        Raises:
            ValueError: a needed key is missing, or it is another model's config.
        """
        raw = json.loads(text)
        missing = [key for key in ("llm_model_id", "encoder_model_id") if key not in raw]
        if missing:
            raise ValueError(f"config.json lacks {missing}: not a DeSTA2.5-Audio checkpoint (model_type {raw.get('model_type')!r})")
        known = {key: value for key, value in raw.items() if key in cls.__dataclass_fields__}
        return cls(**known)


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """The trained tensors under their published names: connector, and LoRA adapters if there are any."""
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name.startswith(CONNECTOR_PREFIX):
            state[name] = tensor.detach()
        elif "lora_" in name:
            state[LORA_PREFIX + name.split("base_model.model.", 1)[-1]] = tensor.detach()
    return state


def load_into(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Fill the trained tensors of ``model``, all of them and no others: nothing is skipped silently.

    Raises:
        ValueError: names or shapes differ; the message lists some of each kind.
    """
    own = trainable_names(model)
    missing, unexpected = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    wrong = [
        f"{n}: {tuple(state[n].shape)} in the checkpoint, {tuple(own[n][1].shape)} in the model"
        for n in own
        if n in state and state[n].shape != own[n][1].shape
    ]
    if missing or unexpected or wrong:
        raise ValueError(
            f"the checkpoint does not fit the model: {len(missing)} tensors missing {missing[:3]}, {len(unexpected)} unexpected {unexpected[:3]}, "
            f"{len(wrong)} of another shape {wrong[:3]}; check encoder, llm and connector sizes in {CONFIG_FILE}"
        )
    for name, (_, target) in own.items():
        target.data.copy_(state[name])


def trainable_names(model: nn.Module) -> dict[str, tuple[str, Tensor]]:
    """Published name -> (own name, tensor)."""
    own = dict(model.state_dict(keep_vars=True))
    named = {n: (n, t) for n, t in own.items() if n.startswith(CONNECTOR_PREFIX)}
    named |= {LORA_PREFIX + n.split("base_model.model.", 1)[-1]: (n, t) for n, t in own.items() if "lora_" in n}
    return named


def save_checkpoint(folder: Path, config: CheckpointConfig, state: Mapping[str, Tensor]) -> None:
    """Write ``config.json`` and ``model.safetensors`` (fp32) as one atomic step: the folder appears whole or not at all."""
    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write_model(partial, config, state)
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)


def write_model(folder: Path, config: CheckpointConfig, state: Mapping[str, Tensor]) -> None:
    """The two files of a checkpoint into an existing folder."""
    (folder / CONFIG_FILE).write_text(json.dumps(asdict(config), indent=2, default=str) + "\n", encoding="utf-8")
    save_file({name: tensor.float().cpu().contiguous() for name, tensor in state.items()}, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def read_config(folder: Path) -> CheckpointConfig:
    """``config.json`` of a checkpoint folder.

    Raises:
        ValueError: the folder holds no readable config.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{folder} is not a checkpoint: it has no {CONFIG_FILE}")
    return CheckpointConfig.from_json(path.read_text(encoding="utf-8"))


def load_weights(folder: Path) -> dict[str, Tensor]:
    """The trained tensors of a checkpoint folder.

    Raises:
        ValueError: the file is missing or damaged.
    """
    path = folder / WEIGHTS_FILE
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"cannot read the weights {path}: {error}") from error


def is_complete(folder: Path) -> bool:
    """Whether a folder is a whole checkpoint that no one is writing or removing."""
    marker = folder.parent / (folder.name.removesuffix(".ckpt") + UNFINISHED)
    return (folder / CONFIG_FILE).is_file() and (folder / WEIGHTS_FILE).is_file() and not marker.exists() and not folder.name.endswith(".part")


def latest_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint with the highest step below ``folder`` (or below its ``checkpoints/``); None where there is none."""
    found = [p.parent for p in folder.rglob(CONFIG_FILE) if is_complete(p.parent) and _step(p.parent) is not None]
    return max(found, key=lambda p: (_step(p) or 0, p.name), default=None)


def _step(folder: Path) -> int | None:
    match = re.search(r"step=(\d+)", folder.name)
    return int(match.group(1)) if match else None
