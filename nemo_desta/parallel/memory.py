"""Memory of one process of a layout, from sizes alone.

Bytes are those of tensors that live at the same time at the worst moment of a step: weights, what is trained (fp32 values, gradients and two Adam moments),
and the activations kept for the backward pass. Kernels' workspaces, fragmentation and the CUDA context come on top.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from nemo_desta.config import ConnectorConfig, LoraConfig
from nemo_desta.parallel.lora_table import TARGETS, cut_of, targets_of
from nemo_desta.parallel.plan import ParallelSizes, padded_vocabulary, plan_heads, split_layers
from nemo_desta.parallel.weights import Geometry, has_qk_norm, has_qkv_bias

BF16, FP32 = 2, 4
TRAINED = 4 * FP32  # value, gradient, two moments
CONNECTOR_LAYER_VALUES = 24  # activations that a Q-Former layer keeps for every query, in units of its width
MASK = 1  # bytes of an entry of a dropout mask on a GPU
FRAMES = 1500  # encoder frames of 30 s
CLIP_TOKENS = 256  # of a row with a clip, about: tells how many clips are in a pack
WHOLE_LAYERS = 2  # of an LLM in shards: the one that is computed and the one that is gathered meanwhile
# Adapted layers that share their inputs.
INPUTS = {"q_proj": "attention norm", "k_proj": "attention norm", "v_proj": "attention norm", "gate_proj": "mlp norm", "up_proj": "mlp norm"}


@dataclass(frozen=True)
class Shapes:
    """Sizes of a recipe's models.

    Attributes:
        llm: transformers config.
        encoder: transformers config of a Whisper-like encoder.
        connector, lora: as in the recipe.
    """

    llm: Any
    encoder: Any
    connector: ConnectorConfig
    lora: LoraConfig = field(default_factory=LoraConfig)

    @property
    def taps(self) -> int:
        """Encoder layers that are read."""
        return len(self.connector.taps or [0, 1, 2, 3])


@dataclass(frozen=True)
class Workload:
    """What goes through a process in a step.

    Attributes:
        tokens: of a pack.
        clips: of a step, for one copy of the model.
        half: the LLM is in bf16.
        half_encoder: the encoder is.
    """

    tokens: int
    clips: int
    half: bool = True
    half_encoder: bool = False

    @property
    def item(self) -> int:
        """Bytes of one of the LLM's numbers."""
        return BF16 if self.half else FP32

    @property
    def encoder_item(self) -> int:
        """Bytes of one of the encoder's weights."""
        return BF16 if self.half_encoder else FP32


@dataclass(frozen=True)
class Memory:
    """Bytes of a process."""

    weights: int
    trained: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.trained + self.activations


# -- parameters ------------------------------------------------------------------------------------------------------------------------------------


def layer_tensors(llm: Any, tp: int) -> list[tuple[int, ...]]:
    """Shapes of the parameters of one layer on one tensor-parallel process, with the filling of heads."""
    heads, hidden, mlp = plan_heads(llm, tp), llm.hidden_size, llm.intermediate_size // tp
    queries, keys = heads.heads * heads.size // tp, heads.padded_groups * heads.size // tp
    shapes: list[tuple[int, ...]] = [(queries, hidden), (keys, hidden), (keys, hidden), (hidden, queries), (mlp, hidden), (mlp, hidden), (hidden, mlp)]
    shapes += [(hidden,)] * 2  # norms
    shapes += [(queries,), (keys,), (keys,)] if has_qkv_bias(llm) else []
    return shapes + ([(heads.size,)] * 2 if has_qk_norm(llm) else [])


def layer_parameters(llm: Any, tp: int) -> int:
    """Parameters of one layer on one tensor-parallel process, with the filling of heads."""
    return sum(math.prod(shape) for shape in layer_tensors(llm, tp))


def llm_parameters(llm: Any, sizes: ParallelSizes, stage: int) -> int:
    """Parameters of the LLM on one process of a stage, with filling and without adapters."""
    table = padded_vocabulary(llm.vocab_size, sizes.tp) // sizes.tp * llm.hidden_size
    first, last = stage == 0, stage == sizes.pp - 1
    tables = (first + last) if not (llm.tie_word_embeddings and sizes.pp == 1) else 1
    return own_layers(llm, sizes, stage) * layer_parameters(llm, sizes.tp) + tables * table + (llm.hidden_size if last else 0)


def own_layers(llm: Any, sizes: ParallelSizes, stage: int) -> int:
    """Number of layers on a stage."""
    return sum(len(part) for part in split_layers(llm.num_hidden_layers, sizes.pp, sizes.virtual_pp)[stage :: sizes.pp])


def outer_tensors(llm: Any) -> list[tuple[int, ...]]:
    """Shapes of what lies in no layer: embedding, head where it is another, last norm."""
    tables = 1 if llm.tie_word_embeddings else 2
    return [(llm.vocab_size, llm.hidden_size)] * tables + [(llm.hidden_size,)]


def sharded_parameters(llm: Any, processes: int, rank: int = 0) -> int:
    """Parameters that one of several processes has of an LLM in shards (FSDP2), each cut along its first dimension; rank 0 has most."""

    def own(shape: tuple[int, ...]) -> int:
        each = -(-shape[0] // processes)
        return max(0, min(each, shape[0] - rank * each)) * math.prod(shape[1:])

    return sum(map(own, outer_tensors(llm))) + llm.num_hidden_layers * sum(map(own, layer_tensors(llm, 1)))


def adapter_parameters(llm: Any, lora: LoraConfig, sizes: ParallelSizes, stage: int) -> int:
    """Parameters of the low-rank adapters on one process of a stage, with filling; 0 where they are off."""
    widths = sum(inputs + outputs for _, inputs, outputs in _adapters(llm, lora, sizes.tp))
    return own_layers(llm, sizes, stage) * lora.rank * widths


def _adapters(llm: Any, lora: LoraConfig, tp: int) -> Iterator[tuple[str, int, int]]:
    """(target, inputs, outputs) of one layer's adapters on one tensor-parallel process."""
    geometry = Geometry.of(llm, tp, 0)
    for target in targets_of(lora) if lora.enabled else []:
        width = cut_of(target, geometry).width
        yield (target, llm.hidden_size, width) if TARGETS[target][1] else (target, width, llm.hidden_size)


def encoder_parameters(encoder: Any, taps: list[int] | None = None) -> int:
    """Parameters of a Whisper-like encoder up to its last tap: convolutions, positions, layers."""
    width, inner = encoder.d_model, encoder.encoder_ffn_dim
    front = 3 * width * (encoder.num_mel_bins + width) + 2 * width + encoder.max_source_positions * width
    layer = 4 * width * width + 2 * width * inner + 9 * width + inner
    return front + (max(taps) + 1 if taps else encoder.encoder_layers) * layer


def connector_parameters(connector: ConnectorConfig, width: int, llm_width: int) -> int:
    """Parameters of the Q-Former: self- and cross-attention and feed-forward in every layer, queries and mix of the taps, output projection."""
    taps, inner = len(connector.taps or [0, 1, 2, 3]), connector.ffn_size
    layer = 8 * width * width + 2 * width * inner + 15 * width + inner
    return connector.num_layers * layer + taps * connector.num_queries * (width + 1) + (width + 1) * llm_width + 2 * width


# -- bytes -----------------------------------------------------------------------------------------------------------------------------------------


def estimate(shapes: Shapes, sizes: ParallelSizes, stage: int, load: Workload, *, recompute: bool = False) -> Memory:
    """Need of a process of a stage."""
    weights = llm_parameters(shapes.llm, sizes, stage) * load.item
    return _with_sound(shapes, sizes, stage, load, weights, _llm_activations(shapes, sizes, stage, load, recompute=recompute))


def estimate_sharded(shapes: Shapes, processes: int, load: Workload) -> Memory:
    """Need of the fullest of several processes with the frozen LLM in shards: its shards, what lies in no layer whole, and two whole layers."""
    whole = sum(math.prod(shape) for shape in outer_tensors(shapes.llm)) + min(WHOLE_LAYERS, shapes.llm.num_hidden_layers) * layer_parameters(shapes.llm, 1)
    weights = (sharded_parameters(shapes.llm, processes) + whole) * load.item
    return _with_sound(shapes, ParallelSizes(), 0, load, weights, _llm_activations(shapes, ParallelSizes(), 0, load, recompute=False))


def _with_sound(shapes: Shapes, sizes: ParallelSizes, stage: int, load: Workload, weights: int, activations: int) -> Memory:
    """With what is trained, and with encoder and connector on the first stage."""
    trained = adapter_parameters(shapes.llm, shapes.lora, sizes, stage)
    if stage == 0:
        weights += encoder_parameters(shapes.encoder, shapes.connector.taps) * load.encoder_item
        trained += connector_parameters(shapes.connector, shapes.encoder.d_model, shapes.llm.hidden_size)
        activations += _sound_activations(shapes, sizes, load)
    return Memory(weights, trained * TRAINED, activations)


def _llm_activations(shapes: Shapes, sizes: ParallelSizes, stage: int, load: Workload, *, recompute: bool) -> int:
    """What the frozen layers keep for the gradient of their inputs, of all packs under way, and the logits of a thousand positions."""
    llm = shapes.llm
    layer = layer_activations(llm, sizes, load) + adapter_activations(llm, shapes.lora, sizes, load)
    layers, inputs = own_layers(llm, sizes, stage), llm.hidden_size * _own_tokens(sizes, load) * load.item
    kept = inputs * layers + layer if recompute else layer * layers
    logits = 2 * min(load.tokens, 1024) * padded_vocabulary(llm.vocab_size, sizes.tp) // sizes.tp * FP32 if stage == sizes.pp - 1 else 0
    return kept * _packs_under_way(sizes, stage, load) + logits


def layer_activations(llm: Any, sizes: ParallelSizes, load: Workload) -> int:
    """What a frozen layer keeps: no inputs of weight products, but those of norms, attention and SwiGLU."""
    heads = plan_heads(llm, sizes.tp)
    around = 2 * llm.hidden_size * _own_tokens(sizes, load)  # inputs of the two norms
    attention = load.tokens * heads.size * (2 * heads.heads + 2 * heads.padded_groups) // sizes.tp  # query, key, value, output
    mlp = 3 * load.tokens * llm.intermediate_size // sizes.tp  # gate, its SiLU, up
    return (around + attention + mlp) * load.item


def adapter_activations(llm: Any, lora: LoraConfig, sizes: ParallelSizes, load: Workload) -> int:
    """What a layer's adapters keep besides: the inputs of A, once for all that have the same, or with dropout a copy and a mask each; the inputs of B."""
    kept, shared, own = 0, set[str](), _own_tokens(sizes, load)
    for target, width, _ in _adapters(llm, lora, sizes.tp):
        tokens_a, tokens_b = (own, load.tokens) if TARGETS[target][1] else (load.tokens, own)
        source = INPUTS.get(target, target)
        if lora.dropout > 0:
            kept += tokens_a * width * (load.item + MASK)
        elif source not in shared:
            kept += tokens_a * width * load.item
        shared.add(source)
        kept += tokens_b * lora.rank * load.item
    return kept


def _own_tokens(sizes: ParallelSizes, load: Workload) -> int:
    """Tokens of a pack that a process has between the layers."""
    return -(-load.tokens // sizes.tp) if sizes.sequence_parallel else load.tokens


def _packs_under_way(sizes: ParallelSizes, stage: int, load: Workload) -> int:
    """Packs whose backward pass is still to come: with stages the earlier ones hold more (1F1B)."""
    return min(sizes.pp - stage, -(-load.clips // _clips_of_a_pack(load)))


def _clips_of_a_pack(load: Workload) -> int:
    return max(1, min(load.clips, load.tokens // CLIP_TOKENS))


def _sound_activations(shapes: Shapes, sizes: ParallelSizes, load: Workload) -> int:
    """Taps of the clips of the packs under way, and what the Q-Former keeps: keys and values of every frame in every layer, and its queries' activations."""
    rows = min(load.clips, _clips_of_a_pack(load) * _packs_under_way(sizes, 0, load))
    clips, width, layers = -(-rows // sizes.tp), shapes.encoder.d_model, shapes.connector.num_layers
    frames = clips * shapes.taps * FRAMES * width * FP32
    keys = 2 * frames * layers
    queries = clips * shapes.taps * shapes.connector.num_queries * width * FP32 * CONNECTOR_LAYER_VALUES * layers
    return frames + keys + queries
