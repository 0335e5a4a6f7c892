"""The reference repository's own model code on the benchmark's rows. The code is the user's clone; nothing of it is here.

Its classes are filled with the benchmark's LLM, encoder and connector without running their constructors, which load models from the hub and know only four
sizes of Whisper. Under transformers 5 a Whisper layer returns a tensor where the reference expects a tuple: `_TupleLayer` stands in between.
"""

import importlib
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from nemo_desta.backbones.hf import HFBackbone
from nemo_desta.config import PadTo
from nemo_desta.models.desta import DestaModel
from nemo_desta.models.metering import EncoderMeter

CODE = "desta/models/modeling_desta25.py"


class _TupleLayer(nn.Module):
    """A Whisper layer as older transformers had it, timed."""

    def __init__(self, layer: nn.Module, meter: EncoderMeter) -> None:
        super().__init__()
        self.layer, self.meter = layer, meter

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **_: Any) -> tuple[Tensor]:
        with self.meter.measure(hidden_states.device):
            out = self.layer(hidden_states, attention_mask)
        return (out if isinstance(out, Tensor) else out[0],)


def load_code(checkout: Path) -> ModuleType:
    """The reference's model module.

    Raises:
        ValueError: it is not there.
    """
    if not (checkout / CODE).is_file():
        raise ValueError(f"--reference {checkout}: there is no {CODE}; give a clone of https://github.com/kehanlu/DeSTA2.5-Audio")
    sys.path.insert(0, str(checkout.resolve()))
    return importlib.import_module("desta.models.modeling_desta25")


def build_reference(checkout: Path, model: DestaModel, encoder: Any) -> nn.Module:
    """The reference's model with the weights of ours.

    Args:
        checkout: the clone.
        model: the benchmark's model with the hf backbone; the LLM is shared with it, the connector's weights are copied.
        encoder: transformers' Whisper encoder with the weights of the model's own.
    """
    code, backbone, own = load_code(checkout), model.backbone, model.perception.connector
    assert isinstance(backbone, HFBackbone)
    taps = list(model.perception.encoder.taps)
    encoder.layers = nn.ModuleList(_TupleLayer(layer, model.meter) for layer in encoder.layers[: taps[-1] + 1])  # ours ends at the last tap too
    config = SimpleNamespace(
        encoder_model_id="openai/whisper-large-v3",  # a size that it knows; the taps are replaced below
        connector_mode="qformer_1",
        prompt_size=own.num_queries,
        qformer_num_hidden_layers=own.num_layers,
        encoder_config=encoder.config,
        llm_config=SimpleNamespace(hidden_size=backbone.hidden_size),
    )
    code.BertConfig = partial(code.BertConfig, intermediate_size=own.ffn_size)  # type: ignore[attr-defined]
    adapter = code.QformerConnector(config)
    config.target_layer_ids = taps
    adapter.layer_prompts = nn.ParameterList(nn.Parameter(torch.empty_like(p)) for p in own.layer_prompts)
    adapter.layer_weights = nn.Parameter(torch.empty_like(own.layer_weights))
    adapter.load_state_dict(own.state_dict())
    perception = _empty(code.WhisperPerception, config=config, connector=adapter, whisper=_empty(nn.Module, model=_empty(nn.Module, encoder=encoder)))
    whole = _empty(code.DeSTA25AudioModel, llm_model=backbone.base, perception=perception)
    encoder.requires_grad_(False)
    return whole.to(model.device).eval()


def _empty(kind: type[nn.Module], **parts: Any) -> nn.Module:
    """A module of a kind with these parts, its own constructor not run."""
    module: nn.Module = kind.__new__(kind)
    nn.Module.__init__(module)
    for name, part in parts.items():
        setattr(module, name, part)
    return module


def reference_step(reference: nn.Module, model: DestaModel, samples: Sequence[Tensor], starts: Sequence[int], padded: tuple[Tensor, Tensor, Tensor]) -> float:
    """Forward and backward of the reference's model; returns the mean token loss.

    Args:
        reference: of `build_reference`.
        model: the benchmark's.
        samples: the clip of each row.
        starts: first query slot of each row.
        padded: ids, labels and mask of real tokens, [rows, longest]; a transcript's tokens, if any, stand in the ids.
    """
    ids, labels, mask = padded
    features, _ = model.perception.encoder.featurizer(samples, PadTo.thirty_seconds)
    model.meter.frames += len(samples) * features.shape[-1] // 2
    first = next(model.perception.encoder.parameters())  # type: ignore[attr-defined]
    nothing = torch.zeros(1, 0, dtype=torch.long, device=ids.device)
    loss = reference(
        input_ids=ids,
        attention_mask=mask.long(),
        batch_features=features.to(first.device, first.dtype),
        batch_transcription_ids=[nothing] * len(samples),
        batch_start_positions=list(enumerate(starts)),
        labels=labels,
    ).loss
    loss.backward()
    return float(loss.detach())
