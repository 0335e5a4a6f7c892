"""GGUF file of a Llama-type LLM -> Hugging Face directory with dequantised weights and tokenizer.

Weights are stored in float32: a Q4_1 weight is ``scale * q + minimum`` with float16 scale and minimum, which neither float16 nor bfloat16
holds exactly, and the same exact values must reach whoever casts them (frozen bf16 backbone, fp32 parity tests, export). For 135 M parameters
that costs 540 MB of disk once.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

_LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP_TENSORS = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}
_CONTROL_TOKEN = 3  # llama.cpp's token type of <|im_start|> and its like


def convert_gguf_llama(gguf_path: Path, output_dir: Path) -> None:
    """Write config, weights (float32 safetensors), tokenizer and generation config of a GGUF Llama model.

    Args:
        gguf_path: GGUF file of architecture "llama" with a byte-level BPE tokenizer of pre-tokenizer type "smollm".
        output_dir: Existing directory to write to.

    Raises:
        ValueError: The file holds another architecture or tokenizer.
    """
    from gguf import GGUFReader

    reader = GGUFReader(gguf_path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    if fields["general.architecture"] != "llama":
        raise ValueError(f"{gguf_path} holds a model of architecture {fields['general.architecture']!r}; only 'llama' can be converted")
    config = _llama_config(fields, tied=all(tensor.name != "output.weight" for tensor in reader.tensors))
    config.save_pretrained(output_dir)
    save_file(_state_dict(reader, config.num_attention_heads, config.num_key_value_heads), output_dir / "model.safetensors", metadata={"format": "pt"})
    _tokenizer(fields).save_pretrained(output_dir)
    _generation_config(fields).save_pretrained(output_dir)


def _llama_config(fields: dict[str, Any], *, tied: bool) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=fields["llama.vocab_size"],
        hidden_size=fields["llama.embedding_length"],
        intermediate_size=fields["llama.feed_forward_length"],
        num_hidden_layers=fields["llama.block_count"],
        num_attention_heads=fields["llama.attention.head_count"],
        num_key_value_heads=fields["llama.attention.head_count_kv"],
        max_position_embeddings=fields["llama.context_length"],
        rms_norm_eps=round(fields["llama.attention.layer_norm_rms_epsilon"], 9),
        rope_parameters={"rope_type": "default", "rope_theta": fields["llama.rope.freq_base"]},
        tie_word_embeddings=tied,
        bos_token_id=fields["tokenizer.ggml.bos_token_id"],
        eos_token_id=fields["tokenizer.ggml.eos_token_id"],
        pad_token_id=fields["tokenizer.ggml.padding_token_id"],
        dtype="float32",
    )


def _state_dict(reader: Any, num_heads: int, num_kv_heads: int) -> dict[str, torch.Tensor]:
    from gguf import dequantize

    weights = {}
    for tensor in reader.tensors:
        values = np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        if ".attn_q." in tensor.name:
            values = _undo_rope_permutation(values, num_heads)
        elif ".attn_k." in tensor.name:
            values = _undo_rope_permutation(values, num_kv_heads)
        weights[_hf_name(tensor.name)] = torch.from_numpy(np.array(values, order="C"))  # a copy: the reader maps the file read-only
    return weights


def _hf_name(gguf_name: str) -> str:
    if gguf_name in _TOP_TENSORS:
        return _TOP_TENSORS[gguf_name]
    _, layer, kind, suffix = gguf_name.split(".")
    return f"model.layers.{layer}.{_LAYER_TENSORS[kind]}.{suffix}"


def _undo_rope_permutation(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """Reorder the rows [heads * head_dim, hidden] from GGUF's interleaved rotary pairs to Hugging Face's two halves."""
    rows, columns = weight.shape
    return weight.reshape(num_heads, rows // num_heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _tokenizer(fields: dict[str, Any]) -> Any:
    """Build the byte-level BPE tokenizer; digits are split one by one, as pre-tokenizer type "smollm" says."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if (fields["tokenizer.ggml.model"], fields["tokenizer.ggml.pre"]) != ("gpt2", "smollm"):
        raise ValueError(f"tokenizer {fields['tokenizer.ggml.model']!r}/{fields['tokenizer.ggml.pre']!r} is not known; only 'gpt2'/'smollm' can be converted")
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    merges = [(left, right) for left, right in (merge.split(" ") for merge in fields["tokenizer.ggml.merges"])]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, fields["tokenizer.ggml.token_type"], strict=True) if kind == _CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=tokens[fields["tokenizer.ggml.bos_token_id"]],
        eos_token=tokens[fields["tokenizer.ggml.eos_token_id"]],
        unk_token=tokens[fields["tokenizer.ggml.unknown_token_id"]],
        pad_token=tokens[fields["tokenizer.ggml.padding_token_id"]],
        chat_template=fields["tokenizer.chat_template"],
        model_max_length=fields["llama.context_length"],
        clean_up_tokenization_spaces=False,
    )


def _generation_config(fields: dict[str, Any]) -> Any:
    from transformers import GenerationConfig

    return GenerationConfig(
        bos_token_id=fields["tokenizer.ggml.bos_token_id"],
        eos_token_id=fields["tokenizer.ggml.eos_token_id"],
        pad_token_id=fields["tokenizer.ggml.padding_token_id"],
    )
