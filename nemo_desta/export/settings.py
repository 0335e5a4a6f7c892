"""The typed configuration of an export (``conf/export.yaml``)."""

from dataclasses import dataclass, field
from enum import StrEnum

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

TINY_RANDOM = "tiny-random"


class Target(StrEnum):
    """What a bundle can hold."""

    onnx = "onnx"  # audio/model.onnx: encoder, connector and projection
    onnx_decoder = "onnx_decoder"  # llm/onnx: the LLM with its KV cache as inputs and outputs; for small LLMs
    tensorrt_rtx = "tensorrt_rtx"  # engines of the ONNX files, built ahead of time for consumer GPUs; needs no GPU
    tensorrt = "tensorrt"  # the same with TensorRT 10 or 11, on the GPU that will run it
    trtllm = "trtllm"  # llm/trtllm_ckpt: for trtllm-build (TensorRT-LLM <= 1.2.x)
    trtllm_pytorch = "trtllm_pytorch"  # an out-of-tree module for trtllm-serve (PyTorch backend)
    triton = "triton"  # a model repository for Triton over the engine flow; with trtllm
    hf = "hf"  # llm/hf: the LLM for any engine that reads Hugging Face checkpoints
    vllm = "vllm"  # vllm/: the whole model for vLLM with this library's plugin


QUANTISED = (Target.trtllm, Target.trtllm_pytorch, Target.hf)
"""Targets whose LLM ``quantization`` quantises."""


class Dtype(StrEnum):
    """Format of exported weights."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


class Quantization(StrEnum):
    """Of the LLM's linear layers, through ModelOpt."""

    fp8 = "fp8"
    int4_awq = "int4_awq"


@dataclass
class LimitsConfig:
    """Shapes that engines are built for."""

    max_batch_size: int = 8  # requests in flight
    max_audios: int = 2  # clips in a request
    max_input_len: int = 2048  # prompt tokens, audio slots included
    max_seq_len: int = 4096  # prompt and answer tokens
    max_num_tokens: int = 8192  # tokens of one engine step over all requests


@dataclass
class CalibrationConfig:
    """What quantisation looks at."""

    targets: str | None = None  # cuts with self-generated rows (cuts_train.jsonl.gz of a run); null = `clips` with a plain question
    rows: int = 64  # prompts with audio that ModelOpt sees
    heldout_rows: int = 64  # other rows of `targets`, for the change in perplexity
    corpus: str | None = None  # corpus directory of a run, for the change in accuracy on its held-out clips; null = not measured
    questions: int = 100  # held-out questions asked before and after; 0 = none


@dataclass
class ExportConfig:
    """Root of the export's configuration."""

    checkpoint: str = MISSING  # checkpoint directory, a training run (its last checkpoint), owner/name on the hub, or tiny-random (a made model)
    output: str = MISSING  # the bundle's directory; an older bundle there is brought up to date
    targets: list[Target] = field(default_factory=lambda: [Target.onnx, Target.trtllm, Target.trtllm_pytorch, Target.hf])  # parts of the bundle
    dtype: Dtype = Dtype.float16  # of the audio tower and the LLM
    tp: int = 1  # tensor-parallel size of the TensorRT-LLM checkpoint; other than 1 only with such a target
    pp: int = 1  # pipeline-parallel size of it, likewise
    quantization: Quantization | None = None  # of the LLM: fp8 | int4_awq | null
    llm: str | None = None  # another place of the checkpoint's LLM (hf://, asset:// or directory); null = as the checkpoint says
    encoder: str | None = None  # another place of the checkpoint's encoder; null = as the checkpoint says
    transcriber: bool = True  # of the part vllm: Whisper with its decoder beside the model, for clips that come without their words
    clips: list[str] = field(default_factory=list)  # sound files or folders for the parity checks and calibration; empty = made sounds
    parity_clips: int = 8  # of `clips` that the parity checks ask about
    parity_batches: list[int] = field(default_factory=lambda: [1, 2, 3, 5])  # batch sizes at which the tower is compared with PyTorch
    compute_capabilities: list[str] = field(default_factory=lambda: ["SM80", "SM86", "SM89", "SM120"])  # of TensorRT-RTX engines
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)


def typed_export(cfg: DictConfig) -> ExportConfig:
    """The composed configuration as plain dataclasses.

    Raises:
        omegaconf.errors.OmegaConfBaseException: an unknown key, or a value of another type.
    """
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ExportConfig), OmegaConf.to_container(cfg, resolve=True)))
    assert isinstance(config, ExportConfig)
    return config


ConfigStore.instance().store(name="export_schema", node=ExportConfig)
