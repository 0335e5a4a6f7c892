"""What is exported: a checkpoint with its encoder and LLM, checked before any long work and then loaded."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoConfig

from nemo_desta.assets import resolve_model
from nemo_desta.checkpoint import CheckpointConfig, read_config
from nemo_desta.checkpoint.connector import CONFIG_FILE, CONNECTOR_PREFIX, WEIGHTS_FILE, latest_checkpoint
from nemo_desta.config import ModelConfig, Precision
from nemo_desta.export.settings import TINY_RANDOM, ExportConfig, Quantization, Target
from nemo_desta.export.tiny import make_tiny_checkpoint
from nemo_desta.export.trtllm_checkpoint import FAMILIES, FolderWeights, LlmShape, check_parallel
from nemo_desta.models import build
from nemo_desta.modules.encoder import default_taps, is_nemo_model, resolve_encoder
from nemo_desta.modules.qformer import QFormerConnector
from nemo_desta.serving.vllm_plugin.prompt import LEAST_QUERIES

if TYPE_CHECKING:
    from nemo_desta.models import DestaModel

logger = logging.getLogger(__name__)
AWQ_GROUP = 128  # inputs that share a scale
_SOUND_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".g722")
_CUT_SUFFIXES = (".jsonl", ".jsonl.gz")
MAX_CLIPS = 8  # of the parity checks and the calibration, unless told otherwise
LLM_FILES = ("*.json", "*.safetensors", "*.jinja", "tokenizer*")  # of a hub repository
ENCODER_WEIGHTS = ("model.safetensors", "model-*.safetensors", "*.nemo")  # what the loaders take; Whisper's repositories also hold other formats
ENCODER_FILES = ("*.json", "*.txt", *ENCODER_WEIGHTS)
FP32_LLM_BYTES = 4_000_000_000  # of an LLM's files, up to which its reference is computed in fp32


@dataclass(frozen=True)
class Source:
    """A checkpoint that passed the checks.

    Attributes:
        checkpoint: its directory.
        card: its ``config.json``.
        model_config: what it was made with, overrides applied.
        llm_folder: directory of the LLM.
        llm_raw: the LLM's ``config.json``.
    """

    checkpoint: Path
    card: CheckpointConfig
    model_config: ModelConfig
    llm_folder: Path
    llm_raw: dict[str, Any]

    @property
    def llm_in_fp32(self) -> bool:
        """Whether the LLM is small enough to answer in fp32 what engines are compared with."""
        bytes_on_disk = sum(path.stat().st_size for path in self.llm_folder.glob("*.safetensors"))
        return bytes_on_disk <= FP32_LLM_BYTES

    def load(self) -> "DestaModel":
        """The PyTorch model in fp32, whatever format it was trained in: rounding of the reference's own would hide that of an engine.

        A large LLM keeps the format of its checkpoint.
        """
        from nemo_desta.models import DestaModel

        precision = Precision.fp32 if self.llm_in_fp32 else self.model_config.llm_precision
        own = {"llm": self.model_config.llm, "encoder": self.model_config.encoder}
        return DestaModel.from_pretrained(self.checkpoint, **own, llm_precision=precision, encoder_precision=Precision.fp32)

    def llm_weights(self, model: "DestaModel") -> Mapping[str, Tensor]:
        """The LLM's tensors: from its own files, or out of the model where LoRA adapters were merged into it."""
        if not self.model_config.lora.enabled:
            return FolderWeights(self.llm_folder)
        llm: Any = model.backbone
        merged: dict[str, Tensor] = dict(llm.base.state_dict())
        if self.llm_raw.get("tie_word_embeddings"):
            merged.pop("lm_head.weight", None)  # the same tensor as the embedding
        return merged


def open_source(cfg: ExportConfig) -> Source:
    """Find a checkpoint and check it against the settings, from configurations and file headers alone.

    Raises:
        ValueError: what does not fit, and what to change.
    """
    made = Path(cfg.output).absolute().with_name(Path(cfg.output).name + ".tiny-random")
    source = find_source(cfg.checkpoint, made, llm=cfg.llm, encoder=cfg.encoder)
    check_llm(source, cfg)
    if Target.vllm in cfg.targets:
        check_vllm(source)
    return source


def find_source(checkpoint: str, made: Path, *, llm: str | None = None, encoder: str | None = None) -> Source:
    """Find a checkpoint with its encoder and LLM; that they belong together is checked by configurations and file headers alone.

    Args:
        checkpoint: checkpoint directory, a training run (its last checkpoint), ``owner/name`` on the hub, or ``tiny-random``.
        made: where to write the made model ``tiny-random``.
        llm: another place of the checkpoint's LLM.
        encoder: another place of the checkpoint's encoder.

    Raises:
        ValueError: it is no checkpoint, tensors are missing, the connector belongs to another encoder or LLM, or the tokenizer to another LLM.
    """
    if checkpoint == TINY_RANDOM:
        folder = make_tiny_checkpoint(made)
    else:
        folder = build.locate_checkpoint(checkpoint)
        if not (folder / CONFIG_FILE).is_file():
            folder = latest_checkpoint(folder) or folder  # of a training run
    card = read_config(folder)
    overrides = {key: value for key, value in (("llm", llm), ("encoder", encoder)) if value is not None}
    model_config, _ = build.model_config(card, overrides)
    llm_folder = _local(model_config.llm)
    raw = json.loads((llm_folder / "config.json").read_text(encoding="utf-8"))
    source = Source(folder, card, model_config, llm_folder, raw)
    check_connector(source)
    check_vocabulary(source)
    return source


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the tensors of a safetensors file, by its header.

    Raises:
        ValueError: the file is unreadable.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - a handle is no mapping
    except (OSError, SafetensorError) as error:
        raise ValueError(f"cannot read the weights {path}: {error}") from error


def check_connector(source: Source) -> None:
    """Compare the checkpoint's tensors with what encoder and LLM ask for, by the file's header.

    Raises:
        ValueError: the file is unreadable, tensors are missing, or the connector belongs to another backbone or encoder.
    """
    path = source.checkpoint / WEIGHTS_FILE
    have = tensor_shapes(path)
    llm_dim, projection = source.llm_raw["hidden_size"], have.get(CONNECTOR_PREFIX + "proj.1.weight")
    if projection is not None and projection[0] != llm_dim:
        raise ValueError(
            f"the connector of {source.checkpoint} was trained for an LLM of width {projection[0]}, {source.model_config.llm} has {llm_dim}: "
            "name the LLM it was trained with (llm=...)"
        )
    want = _connector_shapes(source, projection[1] if projection is not None else 1)
    missing = sorted(CONNECTOR_PREFIX + name for name in want if CONNECTOR_PREFIX + name not in have)
    if missing:
        raise ValueError(f"{path} lacks {len(missing)} of the connector's {len(want)} tensors, first {missing[0]}: the checkpoint is incomplete")
    for name, shape in want.items():
        if have[CONNECTOR_PREFIX + name] != shape:
            raise ValueError(f"{path}: {CONNECTOR_PREFIX + name} has shape {have[CONNECTOR_PREFIX + name]}, encoder and LLM ask for {shape}")


def _connector_shapes(source: Source, width_in_file: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the connector that this encoder and LLM need."""
    encoder = resolve_encoder(source.model_config.encoder)
    width, heads, layers = width_in_file, 1, 32
    if not is_nemo_model(encoder):
        try:
            config = AutoConfig.from_pretrained(str(encoder))
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot find the audio encoder {source.model_config.encoder!r}: name its directory or hub id with encoder=...") from error
        if config.model_type != "whisper":
            raise ValueError(f"the audio encoder {source.model_config.encoder!r} is a {config.model_type!r} model; it must be a Whisper or NeMo model")
        width, heads, layers = config.d_model, config.encoder_attention_heads, config.encoder_layers
    taps = source.model_config.connector.taps
    count = len(taps) if taps else len(default_taps(layers))
    with torch.device("meta"):
        sizes = {"encoder_dim": width, "num_taps": count, "num_heads": heads}
        connector = QFormerConnector.from_config(source.model_config.connector, llm_dim=source.llm_raw["hidden_size"], **sizes)
    return {name: tuple(tensor.shape) for name, tensor in connector.state_dict().items()}


def check_vocabulary(source: Source) -> None:
    """Check that the LLM knows every id a prompt may hold.

    Raises:
        ValueError: tokenizer and LLM do not belong together.
    """
    tokenizer: Any = build.load_tokenizer(source.model_config.llm)
    ids = tokenizer(source.card.placeholder_token, add_special_tokens=False)["input_ids"]
    highest, size = max([*ids, len(tokenizer) - 1]), source.llm_raw["vocab_size"]
    if highest >= size:
        raise ValueError(f"the prompt needs token id {highest}, the LLM's vocabulary ends at {size - 1}: tokenizer and LLM do not belong together")


def check_llm(source: Source, cfg: ExportConfig) -> None:
    """Check the LLM against the targets and the quantisation.

    Raises:
        ValueError: the architecture cannot be exported, or does not split over tp x pp or into quantisation groups.
    """
    if {Target.trtllm, Target.trtllm_pytorch, Target.onnx_decoder} & set(cfg.targets):
        check_parallel(LlmShape.from_config(source.llm_raw), cfg.tp, cfg.pp)
    if cfg.quantization is not None:
        check_quantised(source, cfg.quantization, cfg.tp)


def check_quantised(source: Source, quantization: Quantization, tp: int) -> None:
    """Check that an LLM can be quantised, whatever it is written as.

    Raises:
        ValueError: an architecture that is not known here, or widths that int4 groups do not divide.
    """
    raw = source.llm_raw
    if raw.get("model_type") not in FAMILIES:
        raise ValueError(f"quantization={quantization.value} knows {', '.join(FAMILIES)}, the LLM is a {raw.get('model_type')!r} model: leave quantization out")
    if quantization is Quantization.int4_awq:
        for name, width in {"hidden size": raw["hidden_size"], "feed-forward width over tp": raw["intermediate_size"] // tp}.items():
            if width % AWQ_GROUP:
                raise ValueError(f"int4_awq quantises groups of {AWQ_GROUP} inputs, which do not divide the LLM's {name} {width}: use fp8 or none")


def check_vllm(source: Source) -> None:
    """Refuse what the vLLM plugin cannot run.

    Raises:
        ValueError: the encoder is no Whisper, or a clip has so few vectors that they look like the marks of the prompt.
    """
    if is_nemo_model(resolve_encoder(source.model_config.encoder)):
        raise ValueError(f"targets has vllm, whose plugin runs Whisper encoders; the checkpoint has {source.model_config.encoder}: leave vllm out")
    if source.model_config.connector.num_queries < LEAST_QUERIES:
        queries = source.model_config.connector.num_queries
        raise ValueError(f"targets has vllm, whose plugin needs at least {LEAST_QUERIES} vectors a clip; the checkpoint has {queries}: leave vllm out")


def load_clips(paths: Sequence[str], most: int = MAX_CLIPS) -> tuple[list[NDArray[Any]], str]:
    """Clips for the parity checks and calibration: 16 kHz mono float32, at most `most` spread evenly over all that was found.

    Args:
        paths: sound files, folders that hold some, or manifests of cuts (``cuts_test.jsonl.gz`` of a corpus); empty = made sounds.

    Returns:
        The clips, and where they are from in words.

    Raises:
        ValueError: a path does not exist, or a file cannot be decoded.
    """
    if not paths:
        return made_clips(), "made sounds (name real ones with clips=[...])"
    found: list[Callable[[], NDArray[Any]]] = []
    for path in map(Path, paths):
        if not path.exists():
            raise ValueError(f"clips: there is no {path}")
        found += _clips_of(path)
    if not found:
        raise ValueError(f"clips: no sound files ({', '.join(_SOUND_SUFFIXES)}) in {', '.join(paths)}")
    count = min(most, len(found))
    chosen = [found[index * len(found) // count] for index in range(count)]
    return [read()[: 30 * 16_000] for read in chosen], f"{count} of {len(found)} clips of {', '.join(Path(p).name for p in paths)}"


def _clips_of(path: Path) -> list[Callable[[], NDArray[Any]]]:
    """Readers of the clips behind a path."""
    if path.name.endswith(_CUT_SUFFIXES):
        from lhotse import CutSet

        from nemo_desta.data.dataset import load_samples

        return [partial(_as_array, load_samples, cut) for cut in CutSet.from_file(path)]
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in _SOUND_SUFFIXES) if path.is_dir() else [path]
    return [partial(_as_array, _decoded, file) for file in files]


def _as_array(read: Callable[[Any], Any], clip: Any) -> NDArray[Any]:
    return np.asarray(read(clip), np.float32)


def _decoded(path: Path) -> Any:
    from nemo_desta.corpora.audio import decode, to_mono_16k

    return to_mono_16k(*decode(path))


def made_clips(count: int = 5) -> list[NDArray[Any]]:
    """Gliding tones in noise, 0.4 to 3 s long."""
    clips = []
    for index in range(count):
        rng = np.random.default_rng(index)
        time = np.arange(int(16_000 * (0.4 + 0.65 * index))) / 16_000
        tones = sum(np.sin(2 * np.pi * (110 + 40 * index) * k * time * (1 + 0.1 * time)) / k for k in range(1, 6))
        clips.append((0.1 * tones + 0.01 * rng.standard_normal(len(time))).astype(np.float32))
    return clips


def encoder_files(name: str) -> list[Path]:
    """The files behind an encoder's hub name: those in the hub's cache, fetched where they are missing."""
    folder = _snapshot(name, ENCODER_FILES)
    kept: tuple[str, ...] = ENCODER_FILES
    if not any(next(folder.glob(pattern), None) for pattern in ENCODER_WEIGHTS):
        kept = (*ENCODER_FILES, "pytorch_model*.bin")  # old repositories; beside safetensors they hold the same again
        folder = _snapshot(name, kept)
    return sorted({path for pattern in kept for path in folder.glob(pattern)})


def _snapshot(name: str, patterns: Sequence[str]) -> Path:
    """A hub model's directory in the hub's cache."""
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=list(patterns)))


def _local(llm: str) -> Path:
    """The LLM's directory; a hub name is looked up in the hub's cache, or fetched."""
    location = resolve_model(llm)
    return location if isinstance(location, Path) else _snapshot(location, LLM_FILES)


def merge_lora(model: "DestaModel") -> nn.Module:
    """Add LoRA adapters to the weights they adapt, so that every engine can take them. Without adapters nothing changes."""
    backbone: Any = model.backbone
    if backbone.has_lora:
        backbone.llm, backbone.has_lora = backbone.llm.merge_and_unload(), False
    llm: nn.Module = backbone.base
    return llm
