"""What the parts of a bundle will take on the disk, from configurations and file headers alone: an export that finds no room ends before any long work."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, WhisperForConditionalGeneration

from nemo_desta.checkpoint.connector import CONNECTOR_PREFIX, WEIGHTS_FILE
from nemo_desta.export.settings import Dtype, ExportConfig, Target
from nemo_desta.export.source import Source, encoder_files, tensor_shapes
from nemo_desta.modules.encoder import is_nemo_model, resolve_encoder
from nemo_desta.modules.whisper import WhisperTaps

Shapes = Mapping[str, tuple[int, ...]]
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
BYTES = {Dtype.float32: 4, Dtype.float16: 2, Dtype.bfloat16: 2}
GRAPH_BYTES, GRAPH_SHARE = 500_000, 0.02  # of an ONNX file beside its weights: at least, and per byte of them
BESIDE_BYTES = 100_000  # of headers, configurations and a chat template beside weights
TOKENIZER_BYTES = 5_000_000  # of Whisper's tokenizer, where its directory is not here
ENGINE_BYTES, ENGINE_SHARE = 10_000_000, 1.2  # of an engine: its kernels, and what it holds per byte of weights
_SMALL = (".json", ".txt", ".jinja", ".model")


def part_sizes(source: Source, cfg: ExportConfig) -> dict[str, int]:
    """Bytes that the parts will take, rather too many than too few, without those that are links to another part's.

    What is quantised counts as if it were not.
    """
    each, targets = BYTES[cfg.dtype], set(cfg.targets)
    llm, beside = _shapes(source.llm_folder), _beside_weights(source.llm_folder)
    tower = each * (encoder_elements(source) + connector_elements(source))
    embedding = source.llm_raw["vocab_size"] * source.llm_raw["hidden_size"]
    decoder = each * (_elements(llm) + (0 if HEAD in llm else embedding))  # a tied output layer lies in the graph, the embedding once more beside it
    engines = _engine(tower) + (_engine(decoder) if Target.onnx_decoder in targets else 0)
    sizes = {"audio": _onnx(tower)}
    if Target.onnx_decoder in targets:
        sizes["onnx_decoder"] = _onnx(decoder)
    if Target.trtllm in targets:
        sizes["trtllm"] = each * trtllm_elements(llm, source.llm_raw, cfg.tp) + beside
    if targets & {Target.hf, Target.trtllm_pytorch, Target.triton, Target.vllm}:  # all but the first link to it
        sizes["hf"] = each * _elements(llm) + beside
    sizes |= {target.value: engines for target in (Target.tensorrt_rtx, Target.tensorrt) if target in targets}
    if Target.vllm in targets:
        sizes["vllm"] = tower + beside + (transcriber_bytes(source) if cfg.transcriber else 0)
    return sizes


def encoder_elements(source: Source) -> int:
    """Parameters of the encoder as far as the tower holds it; of a NeMo file all that it holds, in fp32."""
    location = resolve_encoder(source.model_config.encoder)
    if is_nemo_model(location):
        files = [Path(location)] if Path(location).is_file() else encoder_files(str(location))
        return sum(path.stat().st_size for path in files) // 4
    with torch.device("meta"):
        return _parameters(WhisperTaps.from_config(AutoConfig.from_pretrained(str(location)), source.model_config.connector.taps))


def connector_elements(source: Source) -> int:
    """Parameters of the checkpoint's connector."""
    shapes = tensor_shapes(source.checkpoint / WEIGHTS_FILE)
    return _elements({name: shape for name, shape in shapes.items() if name.startswith(CONNECTOR_PREFIX)})


def trtllm_elements(llm: Shapes, raw: Mapping[str, Any], tp: int) -> int:
    """Parameters in the files of all ranks of a TensorRT-LLM checkpoint (:mod:`nemo_desta.export.trtllm_checkpoint` says which are in several)."""
    repeated = max(1, tp // (raw.get("num_key_value_heads") or raw["num_attention_heads"]))

    def copies(name: str, shape: tuple[int, ...]) -> int:
        if any(f".{x}_proj." in name for x in "kv"):
            return repeated
        return tp if name == EMBEDDING or len(shape) == 1 else 1

    head = math.ceil(raw["vocab_size"] / tp) * tp * raw["hidden_size"]  # padded, and written out where it is the embedding
    return head + sum(copies(name, shape) * math.prod(shape) for name, shape in llm.items() if name != HEAD)


def transcriber_bytes(source: Source) -> int:
    """Of the whole Whisper in the format of its checkpoint, and of its tokenizer."""
    location = resolve_encoder(source.model_config.encoder)
    config = AutoConfig.from_pretrained(str(location))
    dtype = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    with torch.device("meta"):
        weights = _parameters(WhisperForConditionalGeneration(config)) * dtype.itemsize
    return weights + (_beside_weights(Path(location)) if Path(location).is_dir() else TOKENIZER_BYTES)


def _onnx(weights: int) -> int:
    return int((1 + GRAPH_SHARE) * weights) + GRAPH_BYTES


def _engine(weights: int) -> int:
    return int(ENGINE_SHARE * weights) + ENGINE_BYTES


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _elements(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The tensors of a directory, each once."""
    return {name: shape for path in sorted(folder.glob("*.safetensors")) for name, shape in tensor_shapes(path).items()}


def _beside_weights(folder: Path) -> int:
    """Tokenizer and configurations."""
    return BESIDE_BYTES + sum(path.stat().st_size for path in folder.iterdir() if path.suffix in _SMALL)
