"""How fast a training is, and how well it uses the machine.

Convention of the model-FLOP utilisation: the LLM is frozen, so a token costs its forward pass and the gradient of its activations, 2N + 2N, with N the
parameters of the layers; the head costs the same at labelled positions only; the encoder costs its forward pass, 2N a frame. The connector, attention scores,
recomputation and filling are not counted. These are the FLOPs of the task, not those of the machine: a beginning that rows share counts in every row, though
the hf backbone computes it once a run, so its figure is higher than the share of the peak that its multiplications take. The peak is that of dense bf16 matrix
products.
"""

import resource
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from nemo_desta.backbones.hf import HFBackbone
from nemo_desta.models.desta import DestaModel
from nemo_desta.parallel.memory import layer_parameters

# Dense bf16 tensor-core peaks, FLOP/s, by a part of the device's name (vendor's data sheets).
PEAKS = {"H200": 989e12, "H100": 989e12, "H800": 989e12, "B200": 2250e12, "A100": 312e12, "A800": 312e12, "L40S": 362e12, "4090": 165e12}


def peak_flops(device: torch.device) -> float | None:
    """Peak of a device; None where it is not known (CPUs, other GPUs)."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS.items() if part in name), None)


@dataclass(frozen=True)
class Cost:
    """Sizes that decide the work of a step: FLOPs of a token, of a labelled token's head, and of an encoder frame."""

    token: float
    label: float
    frame: float

    @classmethod
    def of(cls, model: DestaModel) -> "Cost":
        """Of a model, whatever part of it this process holds."""
        backbone: Any = model.backbone
        if isinstance(backbone, HFBackbone):
            config, embeddings = backbone.base.config, backbone.base.get_input_embeddings().weight.numel()
            layers = sum(p.numel() for name, p in backbone.base.model.named_parameters() if "lora_" not in name) - embeddings
        else:
            config = backbone.config
            layers = config.num_hidden_layers * layer_parameters(config, 1)
        encoder = model.perception.encoder if model.perception is not None else None
        frame = 2.0 * sum(p.numel() for p in encoder.parameters()) if isinstance(encoder, torch.nn.Module) else 0.0
        return cls(4.0 * layers, 4.0 * config.vocab_size * config.hidden_size, frame)

    def flops(self, tokens: float, labels: float, frames: float) -> float:
        """Of a step."""
        return self.token * tokens + self.label * labels + self.frame * frames


def peak_memory_bytes(device: torch.device) -> float:
    """Of the GPU where there is one, else of this process."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024


@dataclass
class StepClock:
    """Where the time of a step goes: waiting for data, the encoder, and the rest (connector, LLM, optimiser)."""

    began: float = field(default_factory=time.perf_counter)
    waited: float = 0.0

    def data_arrived(self) -> None:
        """The step has its rows."""
        self.waited = time.perf_counter() - self.began

    def finish(self, encoder_seconds: float) -> dict[str, float]:
        """Seconds of the step and the shares of them; the next step begins."""
        now = time.perf_counter()
        seconds = max(now - self.began, 1e-9)
        self.began = now
        shares = {"data_wait": self.waited / seconds, "encoder": min(encoder_seconds / seconds, 1.0)}
        return {"seconds": seconds, **shares, "llm_and_connector": max(0.0, 1.0 - sum(shares.values()))}
