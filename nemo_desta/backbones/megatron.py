"""A Llama, Qwen2 or Qwen3 as Megatron-core stages (contract C3), at any tensor x pipeline x sequence parallelism.

Shape legend: B batch, T tokens, L labelled tokens, H hidden size, V vocabulary.

Every process holds its parts of the layers; the first stage has the embedding, the last the head. The weights are frozen: they have neither gradients nor
optimiser state, but the gradient of the activations flows through every stage to the sound's vectors on the first.
"""

import logging
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from megatron.core import tensor_parallel
from torch import Tensor, nn
from transformers import AutoConfig, GenerationConfig

from nemo_desta.backbones.supported import check_config
from nemo_desta.checkpoint.connector import check_tensors
from nemo_desta.config import LoraConfig
from nemo_desta.data.conversation import IGNORE
from nemo_desta.data.packing import TokenPack
from nemo_desta.parallel import gpt as stages
from nemo_desta.parallel.cross_entropy import summed_cross_entropy
from nemo_desta.parallel.generation import Sampling, generate
from nemo_desta.parallel.gpt import Part
from nemo_desta.parallel.lora import Half, add_adapters, gather_whole
from nemo_desta.parallel.lora_table import whole_shapes
from nemo_desta.parallel.plan import padded_vocabulary
from nemo_desta.parallel.topology import Topology
from nemo_desta.parallel.weights import Piece
from nemo_desta.parallel.weights_io import FolderReader, Reader, StateReader, export_stages, load_stage

logger = logging.getLogger(__name__)


class MegatronBackbone(nn.Module):
    """This process's part of a frozen LLM. Only LoRA adapters, where asked for, are trainable.

    Args:
        config: transformers config of the LLM.
        topology: where this process stands.
        reader: where its weights lie.
        dtype: of the weights.
        recompute: make the activations of the layers again in the backward pass instead of keeping them.
        transformer_engine: see `parallel.gpt.layer_kinds`.
        generation_config: stop tokens; the config's own where it is None.
        lora: low-rank adapters to add.

    Raises:
        ValueError: the model's kind, its sizes or its weights do not fit, or LoRA targets that it does not have.
    """

    def __init__(
        self,
        config: Any,
        topology: Topology,
        reader: Reader,
        *,
        dtype: torch.dtype,
        recompute: bool = False,
        transformer_engine: bool = False,
        generation_config: GenerationConfig | None = None,
        lora: LoraConfig | None = None,
    ) -> None:
        super().__init__()
        check_config(config)
        self.config, self.topology, self.dtype, self.recompute = config, topology, dtype, recompute
        self.hidden_size: int = config.hidden_size
        self.generation_config = generation_config or GenerationConfig.from_model_config(config)
        self.parts: list[Part] = stages.build_parts(
            config, topology, dtype=dtype, recompute=recompute, transformer_engine=transformer_engine
        )
        self.stages = nn.ModuleList([part.gpt for part in self.parts])
        geometry = stages.geometry_of(config, topology)
        for part in self.parts:
            load_stage(part.gpt, part.layers, config, geometry, reader)
        self.has_lora = bool(lora and lora.enabled)
        self.adapters: list[Half] = []
        self.adapter_shapes: dict[str, tuple[int, int]] = {}  # of the whole matrices, by published name, in the order of a saved optimiser state
        if lora is not None and lora.enabled:
            self.adapters = add_adapters(self.parts, config, geometry, topology, lora)
            self.adapter_shapes = whole_shapes(config, lora)

    @classmethod
    def from_pretrained(cls, path: str | Path, topology: Topology, *, dtype: torch.dtype, **options: Any) -> "MegatronBackbone":
        """Load this process's part of a model directory or hub id.

        Args:
            options: ``recompute``, ``transformer_engine`` and ``lora``, as for the class.

        Raises:
            OSError: it is not there; transformers' message names it.
            ValueError: it is of an unsupported kind, or its files do not fit.
        """
        config = AutoConfig.from_pretrained(str(path))
        stages.check_kind(config)
        folder = _folder(path)
        try:
            stopping = GenerationConfig.from_pretrained(str(folder))
        except OSError:
            stopping = None
        with FolderReader(folder) as reader:
            backbone = cls(config, topology, reader, dtype=dtype, generation_config=stopping, **options)
        backbone._folder = folder
        return backbone

    @classmethod
    def from_state(cls, config: Any, state: dict[str, Tensor], topology: Topology, *, dtype: torch.dtype = torch.float32, **kwargs: Any) -> "MegatronBackbone":
        """From a Hugging Face state dict in memory: for tests."""
        backbone = cls(config, topology, StateReader(state), dtype=dtype, **kwargs)
        backbone._state = state
        return backbone

    _folder: Path | None = None
    _state: dict[str, Tensor] | None = None

    def train(self, mode: bool = True) -> "MegatronBackbone":
        """The frozen LLM has no dropout, its adapters may. Megatron recomputes activations in train mode only."""
        super().train(mode and (self.recompute or self.has_lora))
        return self

    @cached_property
    def embedding_std(self) -> float:
        """Standard deviation of the input embeddings' entries, from the checkpoint: the number that the hf backbone gets."""
        name = "model.embed_tokens.weight"
        if self._state is not None:
            return float(self._state[name].to(self.dtype).float().std())
        assert self._folder is not None
        with FolderReader(self._folder) as reader:
            rows = reader.shape(name)[0]
            return float(reader.read(Piece(name, 0, 0, rows, 0)).to(self.dtype).float().std())

    @property
    def first(self) -> Any:
        """The stage with the embedding."""
        assert self.topology.is_first, "only the first stage embeds tokens"
        return self.parts[0].gpt

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [...] to embeddings [..., H], on the first stage."""
        return stages.embed(self.first, ids)

    def run(self, part: Part, embeds_TH: Tensor | None, pack: TokenPack) -> Tensor:
        """One part of the model on a pack: hidden states for the next part, or the sum of the token losses behind the last (scalar, fp32)."""
        hidden = stages.run_layers(part, embeds_TH.to(self.dtype) if embeds_TH is not None else None, pack)
        return self._loss(part, hidden, pack) if part.gpt.post_process else hidden

    def _loss(self, part: Part, hidden: Tensor, pack: TokenPack) -> Tensor:
        if self.topology.sizes.sequence_parallel:
            hidden_TH = tensor_parallel.gather_from_sequence_parallel_region(hidden, tensor_parallel_output_grad=True)[:, 0]
        else:
            hidden_TH = tensor_parallel.copy_to_tensor_model_parallel_region(hidden)[:, 0]
        next_T = pack.labels_T[1:]
        at_L = (next_T != IGNORE).nonzero().squeeze(-1)
        if at_L.numel() == 0:
            return hidden_TH.float().sum() * 0.0
        weight = stages.head_weight(part.gpt)
        group = self.topology.tensor_group if self.topology.sizes.tp > 1 else None
        first = self.topology.shard * padded_vocabulary(self.config.vocab_size, self.topology.sizes.tp) // self.topology.sizes.tp
        with torch.autocast(hidden.device.type, enabled=False):
            return summed_cross_entropy(hidden_TH[at_L], weight, next_T[at_L], first=first, vocabulary=self.config.vocab_size, group=group)

    def loss(self, embeds_TH: Tensor, pack: TokenPack) -> tuple[Tensor, int]:
        """(sum of the token losses in fp32, number of labelled tokens) without pipeline stages; with them the schedule calls `run`."""
        assert len(self.parts) == 1 and self.topology.sizes.pp == 1, "with pipeline stages the schedule runs the model"
        return self.run(self.parts[0], embeds_TH, pack), pack.num_targets

    @torch.inference_mode()
    def generate(
        self,
        embeds_BTH: Tensor | None,
        attention_mask_BT: Tensor | None,
        *,
        max_new_tokens: int,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> list[list[int]]:
        """Continuations of left-padded prompts; see `Backbone.generate`. All processes of a copy call this; stages behind the first pass None."""
        sampling = Sampling(max_new_tokens, do_sample, temperature, top_p)
        return generate(self.parts, self.topology, self.config, self.generation_config, embeds_BTH, attention_mask_BT, sampling, self.dtype)

    def adapter_state(self) -> dict[str, Tensor]:
        """The adapters whole, under their published names, on the process that writes checkpoints; nothing elsewhere. All processes call this."""
        whole = gather_whole(self.adapters, lambda half: [half.parameter], self.topology)
        return {name: whole[name][0] for name in self.adapter_shapes if whole}

    @torch.no_grad()
    def load_adapters(self, state: Mapping[str, Tensor]) -> None:
        """Fill this process's part of the adapters; `state` has those of all layers, and no others.

        Raises:
            ValueError: names or shapes differ; the message lists some.
        """
        check_tensors(self.adapter_shapes, {name: tuple(tensor.shape) for name, tensor in state.items()})
        for half in self.adapters:
            half.parameter.copy_(half.own(state[half.name]))

    def export(self, folder: str | Path) -> None:
        """Write the whole frozen LLM, without adapters, as a Hugging Face checkpoint; all processes call this, rank 0 writes."""
        geometry = stages.geometry_of(self.config, self.topology)
        export_stages([(part.gpt, part.layers) for part in self.parts], self.config, geometry, Path(folder))


def _folder(path: str | Path) -> Path:
    """The directory of a model; one on the hub is taken from the local cache or fetched."""
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(str(path), allow_patterns=["*.json", "*.safetensors"]))
