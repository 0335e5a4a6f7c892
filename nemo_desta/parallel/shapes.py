"""Sizes of published models, for plans and measurements without their files."""

from typing import Any

from transformers import LlamaConfig, Qwen3Config, WhisperConfig

LLAMA_8B = LlamaConfig(
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    max_position_embeddings=131072,
    tie_word_embeddings=False,
)
QWEN3_8B = Qwen3Config(
    vocab_size=151936,
    hidden_size=4096,
    intermediate_size=12288,
    num_hidden_layers=36,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    tie_word_embeddings=False,
)
LARGE_V3 = WhisperConfig(d_model=1280, encoder_layers=32, encoder_attention_heads=20, encoder_ffn_dim=5120, num_mel_bins=128, vocab_size=51866)
# A FastConformer layer has two feed-forward parts of four widths, a convolution and relative positions: as many parameters as one part of ten widths.
CANARY_1B_V2 = WhisperConfig(d_model=1024, encoder_layers=32, encoder_attention_heads=8, encoder_ffn_dim=10240)
PUBLISHED: dict[str, Any] = {
    "hf://meta-llama/Llama-3.1-8B-Instruct": LLAMA_8B,
    "hf://Qwen/Qwen3-8B": QWEN3_8B,
    "hf://openai/whisper-large-v3": LARGE_V3,
    "hf://nvidia/canary-1b-v2": CANARY_1B_V2,
}
