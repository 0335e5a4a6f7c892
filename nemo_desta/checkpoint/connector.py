"""Reading and writing checkpoint directories (contract C4).

A checkpoint is ``config.json`` + ``model.safetensors`` with only what was trained, under the published checkpoint's tensor names, so that the reference
code reads ours and we read ``DeSTA-ntu/DeSTA2.5-Audio-Llama-3.1-8B``. The backbone and the encoder come from their own places, named in the config.
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nemo_desta.locking import fsync

logger = logging.getLogger(__name__)

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
TRAINING_STATE, STATE_FILE = "training_state", "state.pt"
PARTIAL, DAMAGED = ".part", ".damaged"  # suffixes of a folder that is being written, and of one that was found unreadable
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
            state[published_name(name)] = tensor.detach()
    return state


def published_name(name: str) -> str:
    """Name in a checkpoint of an adapter that peft has put on the backbone."""
    return LORA_PREFIX + name.split("base_model.model.", 1)[-1]


def load_into(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Fill the trained tensors of ``model``, all of them and no others: nothing is skipped silently.

    Raises:
        ValueError: names or shapes differ; the message lists some of each kind.
    """
    own = trainable_names(model)
    check_tensors({name: tuple(target.shape) for name, (_, target) in own.items()}, {name: tuple(tensor.shape) for name, tensor in state.items()})
    for name, (_, target) in own.items():
        target.data.copy_(state[name])


def check_tensors(own: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a checkpoint whose tensors are not those of the model.

    Args:
        own: name -> shape in the model.
        found: the same in the checkpoint.

    Raises:
        ValueError: names or shapes differ; the message lists some of each kind.
    """
    missing, unexpected = sorted(set(own) - set(found)), sorted(set(found) - set(own))
    wrong = [f"{n}: {found[n]} in the checkpoint, {own[n]} in the model" for n in own if n in found and found[n] != own[n]]
    if missing or unexpected or wrong:
        raise ValueError(
            f"the checkpoint does not fit the model: {len(missing)} tensors missing {missing[:3]}, {len(unexpected)} unexpected {unexpected[:3]}, "
            f"{len(wrong)} of another shape {wrong[:3]}; check encoder, llm and connector sizes in {CONFIG_FILE}"
        )


def trainable_names(model: nn.Module) -> dict[str, tuple[str, Tensor]]:
    """Published name -> (own name, tensor)."""
    own = dict(model.state_dict(keep_vars=True))
    named = {n: (n, t) for n, t in own.items() if n.startswith(CONNECTOR_PREFIX)}
    named |= {published_name(n): (n, t) for n, t in own.items() if "lora_" in n}
    return named


def save_checkpoint(folder: Path, config: CheckpointConfig, state: Mapping[str, Tensor]) -> None:
    """Write ``config.json`` and ``model.safetensors`` (fp32) as one atomic step: the folder appears whole or not at all.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    with written_whole(folder) as partial:
        write_model(partial, config, state)


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of ``folder`` when the block ends well, after its content has reached the disk.

    Raises:
        OSError: the disk is full or not writable. The temporary folder is removed; an older ``folder`` stays as it was.
    """
    partial = folder.with_name(folder.name + PARTIAL)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        for path in (*partial.rglob("*"), partial):
            fsync(path)
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
        fsync(folder.parent)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch.save and safetensors have their own words for a full disk
        reason = " ".join(str(error).split())
        number = error.errno if isinstance(error, OSError) else None
        sentence = f"cannot write the checkpoint {folder} ({reason}): make room or choose a writable run_dir, then start the same command again"
        raise OSError(number, sentence) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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


def is_complete(folder: Path, *, resumable: bool = False) -> bool:
    """Whether a folder is a whole checkpoint that no one is writing or removing.

    Args:
        folder: of the checkpoint.
        resumable: it must also hold the training state, without which a run cannot go on from it.
    """
    marker = folder.parent / (folder.name.removesuffix(".ckpt") + UNFINISHED)
    needed = [folder / CONFIG_FILE, folder / WEIGHTS_FILE, *([folder / TRAINING_STATE / STATE_FILE] if resumable else [])]
    return all(path.is_file() for path in needed) and not marker.exists() and not folder.name.endswith((PARTIAL, DAMAGED))


def latest_checkpoint(folder: Path, *, resumable: bool = False) -> Path | None:
    """The complete checkpoint with the highest step below ``folder`` (or below its ``checkpoints/``); None where there is none.

    Raises:
        OSError: a folder cannot be looked into.
    """
    folders = (Path(root) for root, _, files in os.walk(folder, onerror=_unless_gone) if CONFIG_FILE in files)
    found = [path for path in folders if is_complete(path, resumable=resumable) and step_of(path) is not None]
    return max(found, key=lambda p: (step_of(p) or 0, p.name), default=None)


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):  # another process removes or renames a checkpoint meanwhile
        raise error


def step_of(folder: Path) -> int | None:
    """The optimiser step in a checkpoint's name (``step=40.ckpt``); None where it has none."""
    match = re.search(r"step=(\d+)", folder.name)
    return int(match.group(1)) if match else None
