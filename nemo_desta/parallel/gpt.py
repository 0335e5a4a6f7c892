"""A Hugging Face LLM as Megatron's `GPTModel`, one object a pipeline part, and how one part is run on a pack.

Shape legend: T tokens, H hidden size, B batch, L labelled tokens.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from megatron.core import tensor_parallel
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from nemo_desta.data.packing import TokenPack
from nemo_desta.parallel.attention import PackedAttention, RMSNorm, packed_rows
from nemo_desta.parallel.plan import ParallelSizes, padded_vocabulary, plan_heads, split_layers
from nemo_desta.parallel.topology import Topology
from nemo_desta.parallel.weights import Geometry, has_qk_norm, has_qkv_bias

KINDS = ("llama", "qwen2", "qwen3")


class StageModel(GPTModel):
    """Megatron's GPT, whose weights are read and never move."""

    def setup_embeddings_and_output_layer(self) -> None:
        """Nothing to set up: Megatron would make tied embeddings equal over the stages, which reading the same file does already."""


@dataclass(frozen=True)
class Part:
    """A contiguous run of layers on this process.

    Attributes:
        gpt: the module.
        layers: their numbers in the whole model.
    """

    gpt: GPTModel
    layers: list[int]


def check_kind(config: Any) -> None:
    """Refuse what the Megatron layers would compute otherwise than transformers does.

    Raises:
        ValueError: another kind of model, activation or bias than the weight map knows.
    """
    if config.model_type not in KINDS:
        raise ValueError(f"the megatron backbone runs {', '.join(KINDS)} models, not {config.model_type}: use parallel.backbone=hf")
    if config.hidden_act != "silu":
        raise ValueError(f"hidden_act={config.hidden_act!r} is not supported by the megatron backbone (silu is): use parallel.backbone=hf")
    if getattr(config, "mlp_bias", False) or (getattr(config, "attention_bias", False) and config.model_type != "qwen2"):
        raise ValueError("models with mlp_bias or attention_bias are not supported by the megatron backbone: use parallel.backbone=hf")


def transformer_config(config: Any, sizes: ParallelSizes, *, dtype: torch.dtype, recompute: bool = False) -> TransformerConfig:
    """Megatron's description of a Hugging Face LLM of this config."""
    heads = plan_heads(config, sizes.tp)
    parts = split_layers(config.num_hidden_layers, sizes.pp, sizes.virtual_pp)
    layout = [["decoder"] * len(part) for part in parts]
    layout[0].insert(0, "embedding")
    layout[-1].append("loss")
    split: dict[str, Any] = {"pipeline_model_parallel_layout": layout} if sizes.pp > 1 else {}
    again: dict[str, Any] = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1} if recompute else {}
    return TransformerConfig(
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        ffn_hidden_size=config.intermediate_size,
        num_attention_heads=heads.heads,
        num_query_groups=heads.padded_groups,
        kv_channels=heads.size,
        layernorm_epsilon=config.rms_norm_eps,
        normalization="RMSNorm",
        gated_linear_unit=True,
        activation_func=nn.functional.silu,
        add_bias_linear=False,
        add_qkv_bias=has_qkv_bias(config),
        qk_layernorm=has_qk_norm(config),
        hidden_dropout=0.0,
        attention_dropout=0.0,
        tensor_model_parallel_size=sizes.tp,
        pipeline_model_parallel_size=sizes.pp,
        virtual_pipeline_model_parallel_size=sizes.virtual_pp if sizes.virtual_pp > 1 else None,
        # Batched messages mix up the two directions where both neighbours are the same process (interleaved, pp=2).
        overlap_p2p_comm=sizes.virtual_pp > 1,
        batch_p2p_comm=sizes.virtual_pp == 1,
        sequence_parallel=sizes.sequence_parallel,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype == torch.bfloat16,
        use_cpu_initialization=not torch.cuda.is_available(),
        perform_initialization=False,  # the weights are read; a process never holds more than its own part
        calculate_per_token_loss=True,  # the loss is normalised by the tokens of the global batch, and not divided by the schedule
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        apply_rope_fusion=False,
        gradient_accumulation_fusion=False,
        **split,
        **again,
    )


def layer_spec(config: Any, kinds: "LayerKinds") -> ModuleSpec:
    """A layer of this project's attention and of the given norms and linear layers. Parameters have the same names whatever the kinds."""
    spec = get_gpt_layer_local_spec(normalization="RMSNorm", qk_layernorm=has_qk_norm(config))
    attention, mlp = spec.submodules.self_attention, spec.submodules.mlp
    inner = replace(attention.submodules, core_attention=PackedAttention, linear_qkv=kinds.column, linear_proj=kinds.row)
    if has_qk_norm(config):
        inner = replace(inner, q_layernorm=kinds.norm, k_layernorm=kinds.norm)
    layer = replace(
        spec.submodules,
        input_layernorm=kinds.norm,
        pre_mlp_layernorm=kinds.norm,
        self_attention=replace(attention, submodules=inner),
        mlp=replace(mlp, submodules=replace(mlp.submodules, linear_fc1=kinds.column, linear_fc2=kinds.row)),
    )
    return replace(spec, submodules=layer)


@dataclass(frozen=True)
class LayerKinds:
    """Classes that a layer is made of: norm, and the linear layers cut by columns and by rows."""

    norm: Any
    column: Any
    row: Any


def layer_kinds(*, transformer_engine: bool) -> LayerKinds:
    """Megatron's own linear layers and PyTorch's norm, or Transformer Engine's (fused norms; communication that overlaps with the products).

    The attention is the same with both: PyTorch's varlen kernel is flash attention too, and takes the positions of packed rows as they are.

    Raises:
        ValueError: Transformer Engine is asked for and there is none, or no GPU.
    """
    if not transformer_engine:
        return LayerKinds(RMSNorm, tensor_parallel.ColumnParallelLinear, tensor_parallel.RowParallelLinear)
    from megatron.core.extensions import transformer_engine as extension

    if not extension.HAVE_TE or not torch.cuda.is_available():
        missing = "no CUDA GPU is there" if extension.HAVE_TE else "the package transformer-engine is not installed"
        raise ValueError(f"parallel.transformer_engine=true, but {missing}: leave it out, or use the GPU image (Dockerfile)")
    return LayerKinds(extension.TENorm, extension.TEColumnParallelLinear, extension.TERowParallelLinear)


def build_parts(config: Any, topology: Topology, *, dtype: torch.dtype, recompute: bool = False, transformer_engine: bool = False) -> list[Part]:
    """This process's parts, with weights still to be loaded, frozen and in eval mode.

    Raises:
        ValueError: the model's kind or sizes do not fit, or there is no Transformer Engine.
    """
    check_kind(config)
    sizes, kinds = topology.sizes, layer_kinds(transformer_engine=transformer_engine)
    described = transformer_config(config, sizes, dtype=dtype, recompute=recompute)
    cut = split_layers(config.num_hidden_layers, sizes.pp, sizes.virtual_pp)
    return [_build_part(config, described, topology, index, cut, kinds) for index in range(topology.stage, len(cut), sizes.pp)]


def _build_part(config: Any, described: TransformerConfig, topology: Topology, index: int, cut: list[list[int]], kinds: LayerKinds) -> Part:
    spec, sizes = layer_spec(config, kinds), topology.sizes
    gpt = StageModel(
        described,
        TransformerBlockSubmodules(layer_specs=[spec] * len(cut[index]), layer_norm=kinds.norm),
        vocab_size=padded_vocabulary(config.vocab_size, sizes.tp),
        max_sequence_length=config.max_position_embeddings,
        pre_process=index == 0,
        post_process=index == len(cut) - 1,
        position_embedding_type="rope",
        share_embeddings_and_output_weights=config.tie_word_embeddings,
        scatter_embedding_sequence_parallel=False,  # the sound is spliced in first
        vp_stage=index // sizes.pp if sizes.virtual_pp > 1 else None,
    )
    assert [layer.layer_number - 1 for layer in gpt.decoder.layers] == cut[index], "Megatron cut the layers elsewhere than the plan"
    gpt.rotary_pos_emb.inv_freq = inverse_frequencies(config, topology.device)
    gpt.requires_grad_(False).eval()
    return Part(gpt.to(topology.device), cut[index])


def inverse_frequencies(config: Any, device: torch.device) -> Tensor:
    """Rotary frequencies as transformers computes them, whatever scaling the model has (Llama 3's too).

    Raises:
        ValueError: a scaling that also scales the attention.
    """
    kind = (config.rope_parameters or {}).get("rope_type", "default")
    if kind == "default":
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        theta = float((config.rope_parameters or {}).get("rope_theta", 10000.0))
        return 1.0 / theta ** (torch.arange(0, size, 2, dtype=torch.int64).to(device=device, dtype=torch.float) / size)
    frequencies, scale = ROPE_INIT_FUNCTIONS[kind](config, device)
    if scale != 1.0 or kind in ("dynamic", "longrope"):
        raise ValueError(f"rope_type={kind!r} is not supported by the megatron backbone: use parallel.backbone=hf")
    return frequencies.float()


def geometry_of(config: Any, topology: Topology) -> Geometry:
    """Sizes for the weight map at this process's position."""
    return Geometry.of(config, topology.sizes.tp, topology.shard)


def rotary(gpt: GPTModel, position_ids: Tensor) -> Tensor:
    """Angles [T, 1, 1, K] of the tokens of a pack, each at its own position in its row."""
    angles = position_ids.float()[:, None] * gpt.rotary_pos_emb.inv_freq
    return torch.cat([angles, angles], dim=-1)[:, None, None]


def embed(gpt: GPTModel, ids: Tensor) -> Tensor:
    """Token ids [...] to embeddings [..., H] on the first stage; the same on every tensor-parallel process."""
    return gpt.embedding.word_embeddings(ids)


def run_layers(part: Part, embeds_TH: Tensor | None, pack: TokenPack) -> Tensor:
    """The part's layers on a pack: [T, 1, H], or [T / tp, 1, H] under sequence parallelism.

    Args:
        embeds_TH: on the first stage; later stages have got theirs from the schedule.
    """
    gpt = part.gpt
    hidden = None
    if embeds_TH is not None:
        hidden = embeds_TH[:, None].contiguous()
        if gpt.config.sequence_parallel:
            hidden = tensor_parallel.scatter_to_sequence_parallel_region(hidden)
    with torch.autocast(pack.input_ids_T.device.type, enabled=False):  # the frozen layers compute in the type of their weights
        return gpt.decoder(
            hidden_states=hidden,
            attention_mask=None,
            rotary_pos_emb=rotary(gpt, pack.position_ids_T),
            packed_seq_params=packed_rows(pack.cu_seqlens_S1),
        )


def head_weight(gpt: GPTModel) -> Tensor:
    """This position's rows of the output projection."""
    return gpt.shared_embedding_or_output_weight() if gpt.share_embeddings_and_output_weights else gpt.output_layer.weight
