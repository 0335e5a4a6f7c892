"""``config.json`` of a model exported for vLLM, and the encoder with its connector built from it."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from transformers import AutoConfig, PretrainedConfig, WhisperConfig

from nemo_desta.config import ConnectorConfig, ConnectorInit, PadTo
from nemo_desta.modules.perception import Perception
from nemo_desta.modules.qformer import QFormerConnector
from nemo_desta.modules.whisper import WhisperTaps

MODEL_TYPE = "nemo_desta"
ARCHITECTURE = "NemoDestaForConditionalGeneration"
TRANSCRIBER = "transcriber"  # folder of the whole Whisper model, which writes the words of clips that come without any
_WHISPER = ("d_model", "encoder_attention_heads", "encoder_ffn_dim", "num_mel_bins", "max_source_positions", "activation_function", "scale_embedding")


class NemoDestaConfig(PretrainedConfig):
    """The LLM's configuration below ``text_config``, the contract of the audio and ``perception`` below ``nemo_desta``."""

    model_type = MODEL_TYPE

    def __init__(self, text_config: Mapping[str, Any] | None = None, nemo_desta: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        raw = dict(text_config or {})
        self.text_config = AutoConfig.for_model(raw.pop("model_type", "llama"), **raw)
        self.nemo_desta = dict(nemo_desta or {})
        super().__init__(**kwargs)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PretrainedConfig:
        """What vLLM sizes its cache by."""
        return self.text_config


def describe_perception(encoder: WhisperTaps, whisper: WhisperConfig, connector: ConnectorConfig) -> dict[str, Any]:
    """All that :func:`build_perception` needs, as JSON."""
    sizes = {name: getattr(whisper, name) for name in _WHISPER}
    return {"whisper": sizes, "taps": list(encoder.taps), "pad_to": encoder.pad_to.value, "connector": asdict(connector)}


def build_perception(card: Mapping[str, Any], llm_dim: int) -> Perception:
    """Encoder and connector without their weights' values.

    Args:
        card: of :func:`describe_perception`.
        llm_dim: width of the LLM's embeddings.
    """
    taps = list(card["taps"])
    encoder = WhisperTaps.from_config(WhisperConfig(**card["whisper"], encoder_layers=taps[-1] + 1), taps, PadTo(card["pad_to"]))
    connector = ConnectorConfig(**{**card["connector"], "init": ConnectorInit(card["connector"]["init"])})
    sizes = {"encoder_dim": encoder.dim, "num_taps": encoder.num_taps, "num_heads": encoder.num_heads}
    return Perception(encoder, QFormerConnector.from_config(connector, llm_dim=llm_dim, **sizes)).eval()
