"""A Hugging Face causal LM as a backbone: one with full causal attention and plain logits (Llama, Qwen2, Qwen3, ...).

Shape legend: B batch, T tokens, L labelled tokens, H hidden size, V vocabulary.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, GenerationConfig, PreTrainedModel

from nemo_desta.backbones import packed_attention
from nemo_desta.backbones.supported import check_config, check_supported
from nemo_desta.checkpoint.connector import published_name
from nemo_desta.config import LoraConfig, Precision
from nemo_desta.data.conversation import IGNORE
from nemo_desta.data.packing import TokenPack
from nemo_desta.parallel.cross_entropy import CHUNK, summed_cross_entropy
from nemo_desta.parallel.lora_table import fresh
from nemo_desta.parallel.sharding import shard_frozen

logger = logging.getLogger(__name__)
MIN_SHARED = 8  # tokens; a shorter common beginning is not worth a cache


def has_native_bf16(device: torch.device | None = None) -> bool:
    """Whether a device multiplies bf16 matrices in hardware; by default the GPU where there is one, else the CPU."""
    if device.type == "cuda" if device is not None else torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)() or getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())


def resolve_dtype(precision: Precision, device: torch.device | None = None) -> torch.dtype:
    """The torch type of a `Precision`; `auto` is bf16 where `device` (see `has_native_bf16`) computes it natively, else fp32."""
    if precision == Precision.auto:
        return torch.bfloat16 if has_native_bf16(device) else torch.float32
    return {Precision.fp32: torch.float32, Precision.bf16: torch.bfloat16}[precision]


class HFBackbone(nn.Module):
    """A frozen ``AutoModelForCausalLM`` (contract C3). Only LoRA adapters, where asked for, are trainable.

    Args:
        llm: the model; its parameters are frozen and it stays in eval mode.
        lora: low-rank adapters to add (needs the `peft` package).

    Raises:
        ValueError: the model has maths that the packed loss does not implement (sliding windows, scaled or capped logits, attention sinks).
    """

    def __init__(self, llm: PreTrainedModel, lora: LoraConfig | None = None) -> None:
        super().__init__()
        check_supported(llm)
        llm.requires_grad_(False)
        self.hidden_size: int = llm.config.hidden_size
        self.has_lora = bool(lora and lora.enabled)
        self.sharded = False
        self._beginnings: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
        llm.config._attn_implementation = packed_attention.register()
        self.llm: nn.Module = _add_lora(llm, lora) if lora is not None and lora.enabled else llm
        self.train(False)

    @classmethod
    def from_pretrained(cls, path: str | Path, *, dtype: torch.dtype, lora: LoraConfig | None = None) -> "HFBackbone":
        """Load a model directory or hub id.

        Raises:
            OSError: it is not there; transformers' message names it.
            ValueError: it is of an unsupported kind.
        """
        check_config(AutoConfig.from_pretrained(str(path)))
        llm = AutoModelForCausalLM.from_pretrained(str(path), dtype=dtype, attn_implementation="sdpa")
        return cls(llm, lora)

    @classmethod
    def from_config(cls, config: Any, *, dtype: torch.dtype = torch.float32, lora: LoraConfig | None = None) -> "HFBackbone":
        """Random weights: for tests and for meta tensors. ``config`` is a transformers config, a directory or an id."""
        loaded = AutoConfig.from_pretrained(str(config)) if isinstance(config, str | Path) else config
        check_config(loaded)
        return cls(AutoModelForCausalLM.from_config(loaded, dtype=dtype, attn_implementation="sdpa"), lora)

    def train(self, mode: bool = True) -> "HFBackbone":
        """The frozen LLM never leaves eval mode; with LoRA its adapters' dropout follows ``mode``."""
        super().train(mode and self.has_lora)
        return self

    def shard(self, device: torch.device) -> None:
        """Share the frozen weights out among the data-parallel processes (FSDP2); all of them call this.

        From then on every process must embed, make losses and generate equally often (`models.steps.ShardedSteps`).
        """
        shard_frozen(self, list(self.base.model.layers), ("embed", "loss", "generate"), device)
        self.sharded = True

    @property
    def base(self) -> Any:
        """The causal LM itself, adapters merged into its layers."""
        return self.llm.get_base_model() if self.has_lora else self.llm  # type: ignore[operator]

    @property
    def dtype(self) -> torch.dtype:
        return self.base.get_input_embeddings().weight.dtype

    @property
    def embedding_std(self) -> float:
        """Standard deviation of the input embeddings' entries."""
        return float(self.base.get_input_embeddings().weight.float().std())

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [...] to embeddings [..., H]."""
        return self.base.get_input_embeddings()(ids)

    def hidden_states(self, embeds_TH: Tensor, pack: TokenPack) -> Tensor:
        """Last hidden states of packed rows, each row attended alone: [T, H].

        Rows of a recipe begin alike (system prompt, chat tags), and the LLM is frozen: keys and values of that beginning are constants. They are computed
        once and every row attends to them; exact, and a third of the work where prompts are short. The hidden states of the beginning itself are
        zeros: no label is predicted from them. With weights in shards nothing is shared: which process needs a new beginning is not known to the others.
        """
        shared = 0 if self.has_lora or self.sharded else shared_beginning(pack)
        if shared < MIN_SHARED:
            return self._run(embeds_TH, pack.position_ids_T, pack.cu_seqlens_S1.diff().tolist(), None)
        own_T = pack.position_ids_T >= shared
        lengths = (pack.cu_seqlens_S1.diff() - shared).tolist()
        hidden = self._run(embeds_TH[own_T], pack.position_ids_T[own_T], lengths, self._beginning(tuple(pack.input_ids_T[:shared].tolist())))
        return hidden.new_zeros(embeds_TH.shape).index_copy(0, own_T.nonzero().squeeze(-1), hidden)

    def _beginning(self, ids: tuple[int, ...]) -> DynamicCache:
        """Keys and values of a beginning, as a cache that a forward pass may extend."""
        if ids not in self._beginnings:
            self._beginnings.clear()  # a run has one; another recipe in the same process replaces it
            with torch.inference_mode(False), torch.no_grad():  # kept for later steps, which must be able to differentiate through it
                embeds_1TH = self.embed(torch.tensor([ids], device=self.base.device))
                cache = self.base.model(inputs_embeds=embeds_1TH, use_cache=True).past_key_values
            self._beginnings[ids] = [(layer.keys, layer.values) for layer in cache.layers]
        return DynamicCache(ddp_cache_data=self._beginnings[ids])

    def _run(self, embeds_TH: Tensor, position_ids_T: Tensor, lengths: list[int], beginning: DynamicCache | None) -> Tensor:
        # A mask of one entry stands for "no mask needed": transformers would otherwise build one of T x T that nothing reads.
        no_mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=embeds_TH.device)
        output = self.base.model(
            inputs_embeds=embeds_TH[None],
            position_ids=position_ids_T[None],
            attention_mask=no_mask,
            past_key_values=beginning,
            use_cache=beginning is not None,
            row_lengths=lengths,
        )
        return output.last_hidden_state[0]

    def loss(self, embeds_TH: Tensor, pack: TokenPack) -> tuple[Tensor, int]:
        """(sum of the token losses in fp32, number of labelled tokens). Logits are made at labelled positions only, a thousand at a time."""
        hidden_TH = self.hidden_states(embeds_TH.to(self.dtype), pack)
        # The token at t predicts the one at t + 1. The first token of a row is context, so no label crosses a border.
        next_T = pack.labels_T[1:]
        at_L = (next_T != IGNORE).nonzero().squeeze(-1)
        if not at_L.numel():
            return hidden_TH.float().sum() * 0.0, 0
        return self._summed_losses(hidden_TH[at_L], next_T[at_L]), int(at_L.numel())

    def _summed_losses(self, hidden_LH: Tensor, target_L: Tensor) -> Tensor:
        head = self.base.lm_head
        if type(head) is nn.Linear and head.bias is None and not head.weight.requires_grad:
            return summed_cross_entropy(hidden_LH, head.weight, target_L, vocabulary=head.out_features)
        # A head with a bias or an adapter: autograd keeps the logits of all chunks for its gradient.
        chunks = zip(hidden_LH.split(CHUNK), target_L.split(CHUNK), strict=True)
        return torch.stack([F.cross_entropy(head(hidden).float(), target, reduction="sum") for hidden, target in chunks]).sum()

    def generate(
        self, embeds_BTH: Tensor, attention_mask_BT: Tensor, *, max_new_tokens: int, do_sample: bool = False, temperature: float = 1.0, top_p: float = 1.0
    ) -> list[list[int]]:
        """Continuations of left-padded prompts; see `Backbone.generate`. Stop tokens are those of the LLM's own generation config."""
        sampling: dict[str, Any] = {"do_sample": True, "temperature": temperature, "top_p": top_p} if do_sample else {"do_sample": False}
        own = self.base.generation_config
        stops = [own.eos_token_id] if isinstance(own.eos_token_id, int) else list(own.eos_token_id or [])
        pad = own.pad_token_id if own.pad_token_id is not None else next(iter(stops), 0)
        embeds_BTH = embeds_BTH.to(self.dtype)
        settings = GenerationConfig(max_new_tokens=max_new_tokens, eos_token_id=stops or None, pad_token_id=pad, top_k=0 if do_sample else None, **sampling)
        shared: dict[str, Any] = {"synced_gpus": True} if self.sharded else {}  # goes on until the longest answer of any process has ended
        with torch.no_grad() if self.sharded else torch.inference_mode():  # FSDP2 cannot gather weights in inference mode
            out = self.llm.generate(inputs_embeds=embeds_BTH, attention_mask=attention_mask_BT, generation_config=settings, **shared)  # type: ignore[operator]
        return [_until_stop(ids, set(stops)) for ids in out.tolist()]


def shared_beginning(pack: TokenPack) -> int:
    """Number of tokens with which all rows of a pack begin alike: before any audio slot, and short of any label's predecessor. 0 for a single row."""
    borders = pack.cu_seqlens_S1.tolist()
    if len(borders) < 3:
        return 0
    limit = int(pack.cu_seqlens_S1.diff().min()) - 1
    if pack.slots_PQ.numel():
        limit = min(limit, int(pack.position_ids_T[pack.slots_PQ[:, 0]].min()))
    labelled = (pack.labels_T != IGNORE).nonzero().squeeze(-1)
    if labelled.numel():
        limit = min(limit, int(pack.position_ids_T[labelled].min()) - 1)
    starts = torch.tensor(borders[:-1], device=pack.input_ids_T.device)
    rows_SP = pack.input_ids_T[starts[:, None] + torch.arange(max(limit, 0), device=starts.device)]
    alike_P = (rows_SP == rows_SP[0]).all(dim=0)
    return int(alike_P.long().cumprod(0).sum())


def _until_stop(ids: list[int], stops: set[int]) -> list[int]:
    """Cut behind the first stop token: what follows is padding."""
    for i, token in enumerate(ids):
        if token in stops:
            return ids[: i + 1]
    return ids


def _add_lora(llm: PreTrainedModel, lora: LoraConfig) -> nn.Module:
    try:
        import peft
    except ImportError as error:
        raise ValueError("model.lora.enabled=true needs the peft package: pip install -e '.[lora]'") from error
    settings = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=list(lora.target_modules), task_type=peft.TaskType.CAUSAL_LM
    )
    with torch.random.fork_rng(devices=[]):  # what is drawn here must not change what is drawn later: the connector is the same with every backbone
        adapted: nn.Module = peft.get_peft_model(llm, settings)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if ".lora_A." in name:
                parameter.copy_(fresh(published_name(name), parameter.shape))
    return adapted
