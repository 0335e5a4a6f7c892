"""Putting a model together from its configuration or its checkpoint."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoTokenizer

from nemo_desta import __version__
from nemo_desta.assets import resolve_model
from nemo_desta.backbones.base import Backbone
from nemo_desta.backbones.hf import HFBackbone, resolve_dtype
from nemo_desta.checkpoint import CheckpointConfig
from nemo_desta.config import ConnectorConfig, ConnectorInit, LoraConfig, ModelConfig, PadTo, Precision
from nemo_desta.data.conversation import AUDIO_LOCATOR, AudioLayout, Tokenizer
from nemo_desta.modules.encoder import build_encoder, is_nemo_model, resolve_encoder
from nemo_desta.modules.perception import Perception
from nemo_desta.parallel.topology import Topology

if TYPE_CHECKING:
    from nemo_desta.backbones.megatron import MegatronBackbone

logger = logging.getLogger(__name__)

_NAMES = {torch.float32: Precision.fp32, torch.bfloat16: Precision.bf16}
Parts = tuple[Perception | None, Backbone, Tokenizer, AudioLayout, CheckpointConfig]


def parts(cfg: ModelConfig, *, max_transcript_tokens: int | None, topology: Topology | None = None, **options: bool) -> Parts:
    """Load encoder and LLM, make a connector between them.

    Args:
        topology: where this process stands among those that share the LLM; None = the hf backbone, whole.
        options: of `ParallelConfig`, for the megatron backbone: ``recompute``, ``transformer_engine``.

    Raises:
        ValueError: a model reference or the placeholder token does not fit.
    """
    perception, taps = None, list(cfg.connector.taps or [])
    hears = topology is None or topology.is_first  # later pipeline stages have neither encoder nor connector
    encoder = build_encoder(cfg.encoder, taps=cfg.connector.taps, pad_to=cfg.pad_to, dtype=resolve_dtype(cfg.encoder_precision)) if hears else None
    backbone = load_backbone(cfg, topology, **options)
    if encoder is not None:
        perception = Perception.build(encoder, cfg.connector, llm_dim=backbone.hidden_size, embedding_std=backbone.embedding_std)
        taps = list(encoder.taps)
        if cfg.compile:
            perception.compile_parts()
    card = checkpoint_config(cfg, taps=taps, max_transcript_tokens=max_transcript_tokens)
    return perception, backbone, load_tokenizer(cfg.llm), layout_of(cfg, max_transcript_tokens), card


def load_backbone(cfg: ModelConfig, topology: Topology | None, **options: bool) -> "HFBackbone | MegatronBackbone":
    """The LLM, or this process's part of it.

    Raises:
        ValueError: it is of an unsupported kind, or cannot be cut this way.
    """
    location, dtype = resolve_model(cfg.llm), resolve_dtype(cfg.llm_precision)
    if topology is None:
        return HFBackbone.from_pretrained(location, dtype=dtype, lora=cfg.lora)
    from nemo_desta.backbones.megatron import MegatronBackbone  # megatron-core takes seconds to import

    return MegatronBackbone.from_pretrained(location, topology, dtype=dtype, lora=cfg.lora, **options)


def layout_of(cfg: ModelConfig, max_transcript_tokens: int | None) -> AudioLayout:
    """How audio stands in a sequence of this model."""
    return AudioLayout(cfg.placeholder_token, cfg.connector.num_queries, max_transcript_tokens)


def load_tokenizer(llm: str) -> Tokenizer:
    """The LLM's tokenizer.

    Raises:
        ValueError: it has no chat template, without which neither targets nor training rows can be rendered, or ids that the LLM lacks (which a vocabulary
            shared by several processes would embed as zeros).
    """
    location = str(resolve_model(llm))
    tokenizer = AutoTokenizer.from_pretrained(location)
    if not tokenizer.chat_template:
        raise ValueError(f"the tokenizer of {llm} has no chat template: use an instruction-tuned LLM")
    last, rows = max(tokenizer.get_vocab().values()), AutoConfig.from_pretrained(location).get_text_config().vocab_size
    if last >= rows:
        raise ValueError(f"the tokenizer of {llm} has ids up to {last}, its config.json vocab_size={rows}: they do not belong together, or tokens were added")
    return tokenizer


def checkpoint_config(cfg: ModelConfig, *, taps: list[int], max_transcript_tokens: int | None) -> CheckpointConfig:
    """``config.json`` for a model of this configuration."""
    own = {
        "version": __version__,
        "taps": taps,
        "ffn_size": cfg.connector.ffn_size,
        "dropout": cfg.connector.dropout,
        "init": cfg.connector.init.value,
        "normalize_taps": cfg.connector.normalize_taps,
        "cross_attention_gain": cfg.connector.cross_attention_gain,
        "pad_to": cfg.pad_to.value,
        "llm_precision": cfg.llm_precision.value,
        # The resolved format, not the word `auto`: on another machine the connector must hear what it heard in training.
        "encoder_precision": _NAMES[resolve_dtype(cfg.encoder_precision)].value,
        "max_transcript_tokens": max_transcript_tokens,
        "lora": {k: v if not isinstance(v, list) else list(v) for k, v in asdict(_plain(cfg.lora)).items()},
        "llm": cfg.llm,
        "encoder": cfg.encoder,
    }
    return CheckpointConfig(
        llm_model_id=_hub_id(cfg.llm),
        encoder_model_id=_hub_id(cfg.encoder),
        qformer_num_hidden_layers=cfg.connector.num_layers,
        prompt_size=cfg.connector.num_queries,
        use_lora=cfg.lora.enabled,
        placeholder_token=cfg.placeholder_token,
        llm_config=_model_json(cfg.llm),
        encoder_config=_model_json(cfg.encoder),
        nemo_desta=own,
    )


def model_config(card: CheckpointConfig, overrides: Mapping[str, Any]) -> tuple[ModelConfig, int | None]:
    """The configuration that a checkpoint was made with, and its transcript limit. Published checkpoints get the reference's values.

    Raises:
        ValueError: an override is no field of `ModelConfig`, or the checkpoint's messages mark clips otherwise than ours.
    """
    unknown = set(overrides) - set(ModelConfig.__dataclass_fields__)
    if unknown:
        raise ValueError(f"unknown overrides {sorted(unknown)}: fields are {sorted(ModelConfig.__dataclass_fields__)}")
    if card.audio_locator != AUDIO_LOCATOR:
        raise ValueError(f"the checkpoint has audio_locator={card.audio_locator!r}, this library marks clips by {AUDIO_LOCATOR!r}: change it in config.json")
    own = card.nemo_desta
    lora = LoraConfig(**own["lora"]) if "lora" in own else LoraConfig(enabled=card.use_lora)
    connector = ConnectorConfig(
        num_layers=card.qformer_num_hidden_layers,
        num_queries=card.prompt_size,
        ffn_size=own.get("ffn_size", 3072),
        dropout=own.get("dropout", 0.1),
        taps=own.get("taps"),
        normalize_taps=own.get("normalize_taps", False),
        cross_attention_gain=own.get("cross_attention_gain", 1.0),
        init=ConnectorInit(own.get("init", ConnectorInit.reference.value)),
    )
    cfg = ModelConfig(
        llm=own.get("llm", f"hf://{card.llm_model_id}"),
        encoder=own.get("encoder", f"hf://{card.encoder_model_id}"),
        placeholder_token=card.placeholder_token,
        pad_to=PadTo(own.get("pad_to", PadTo.thirty_seconds.value)),
        llm_precision=Precision(own.get("llm_precision", Precision.auto.value)),
        encoder_precision=Precision(own.get("encoder_precision", Precision.fp32.value)),
        connector=connector,
        lora=lora,
    )
    return replace(cfg, **overrides), own.get("max_transcript_tokens")


def locate_checkpoint(ref: str | Path) -> Path:
    """A checkpoint folder from a path or a hub id (``owner/name`` or ``hf://owner/name``; needs the user's network or cache).

    Raises:
        ValueError: neither is there.
    """
    folder = Path(ref)
    if folder.is_dir():
        return folder
    name = str(ref).removeprefix("hf://")
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise ValueError(f"no checkpoint at {ref}: give a directory with config.json and model.safetensors, or owner/name of a hub repository")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise ValueError(
            f"cannot fetch the checkpoint {name} from the hub ({type(error).__name__}): check the name and the network, or give a directory"
        ) from error


def _hub_id(ref: str) -> str:
    return ref.removeprefix("hf://")


def _model_json(ref: str) -> dict[str, Any]:
    """The model's own configuration as its writer shipped it; empty for a NeMo model, whose configuration lies inside its archive."""
    location = resolve_encoder(ref)
    return {} if is_nemo_model(location) else AutoConfig.from_pretrained(str(location)).to_diff_dict()


def _plain(lora: LoraConfig) -> LoraConfig:
    """The same values as plain Python types (OmegaConf hands out its own list type)."""
    return replace(lora, target_modules=list(lora.target_modules))
