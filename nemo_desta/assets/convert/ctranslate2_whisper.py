"""CTranslate2 Whisper (fp16, in parts) -> Hugging Face ``WhisperForConditionalGeneration`` directory with its processor.

Stored in float32, like OpenAI's own checkpoints on the hub: float16 values fit exactly, and a plain ``from_pretrained`` then gives a model that runs on a CPU.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

_DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
_HEADS = {384: 6, 512: 8, 768: 12, 1024: 16, 1280: 20}  # width -> attention heads of the published Whisper sizes
_ATTENTION = {"self_attn": "self_attention", "encoder_attn": "attention"}


class _Reader:
    """Cursor over CTranslate2's binary format: little-endian integers and length-prefixed, zero-terminated strings."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.offset = 0

    def integer(self, code: str) -> int:
        (value,) = struct.unpack_from("<" + code, self.content, self.offset)
        self.offset += struct.calcsize("<" + code)
        return int(value)

    def string(self) -> str:
        length = self.integer("H")
        value = self.content[self.offset : self.offset + length - 1].decode()
        self.offset += length
        return value

    def array(self) -> np.ndarray:
        shape = [self.integer("I") for _ in range(self.integer("B"))]
        dtype = np.dtype(_DTYPES[self.integer("B")])
        size = self.integer("I")
        values = np.frombuffer(self.content, dtype, size // dtype.itemsize, self.offset).reshape(shape)
        self.offset += size
        return values


def read_ctranslate2(parts: Sequence[Path]) -> dict[str, np.ndarray]:
    """Read the variables of a CTranslate2 ``model.bin`` given as one file or as parts in order.

    Args:
        parts: Files whose concatenation is the model.

    Returns:
        Variable name -> array, in the file's own types; aliases resolved.

    Raises:
        ValueError: The file is not a Whisper model.
    """
    reader = _Reader(b"".join(path.read_bytes() for path in parts))
    reader.integer("I")  # version of the binary format
    specification = reader.string()
    if specification != "WhisperSpec":
        raise ValueError(f"{parts[0]} holds a CTranslate2 model of type {specification!r}; expected 'WhisperSpec'")
    reader.integer("I")  # revision of the specification
    variables = {}
    for _ in range(reader.integer("I")):
        name = reader.string()
        variables[name] = reader.array()
    for _ in range(reader.integer("I")):
        alias = reader.string()
        variables[alias] = variables[reader.string()]
    return variables


def convert_ctranslate2_whisper(parts: Sequence[Path], config_path: Path, tokenizer_path: Path, output_dir: Path) -> None:
    """Write a multilingual Whisper model, its processor and its generation config.

    Args:
        parts: The parts of ``model.bin`` in order.
        config_path: CTranslate2's ``config.json`` (language ids, suppressed tokens, alignment heads).
        tokenizer_path: The ``tokenizer.json`` that goes with it.
        output_dir: Existing directory to write to.
    """
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperProcessor, WhisperTokenizerFast

    variables = {name: torch.from_numpy(values.astype(np.float32)) for name, values in read_ctranslate2(parts).items()}
    ct2_config = json.loads(config_path.read_text())
    width, mels, _ = variables["encoder/conv1/weight"].shape
    layers = sum(name.startswith("encoder/layer_") and name.endswith("/ffn/linear_0/weight") for name in variables)
    config = WhisperConfig(
        vocab_size=variables["decoder/embeddings/weight"].shape[0],
        num_mel_bins=mels,
        d_model=width,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=_HEADS[width],
        decoder_attention_heads=_HEADS[width],
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        pad_token_id=50257,
        bos_token_id=50257,
        eos_token_id=50257,
        decoder_start_token_id=50258,
    )
    model = WhisperForConditionalGeneration(config)
    missing, unexpected = model.load_state_dict(whisper_state_dict(variables, layers), strict=False)
    assert not unexpected and set(missing) <= {"proj_out.weight"}, (missing, unexpected)  # proj_out is tied to the embeddings
    model.tie_weights()
    tokenizer = WhisperTokenizerFast(tokenizer_file=str(tokenizer_path), model_max_length=448)
    model.generation_config = _generation_config(ct2_config, tokenizer)
    model.save_pretrained(output_dir)
    WhisperProcessor(WhisperFeatureExtractor(feature_size=mels), tokenizer).save_pretrained(output_dir)


def whisper_state_dict(variables: Mapping[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """Rename CTranslate2's variables to Hugging Face's and split its fused attention projections.

    Args:
        variables: From `read_ctranslate2`.
        layers: Layers of the encoder and of the decoder.

    Returns:
        State dict of ``WhisperForConditionalGeneration``.
    """
    state: dict[str, torch.Tensor] = {
        "model.encoder.embed_positions.weight": variables["encoder/position_encodings/encodings"],
        "model.decoder.embed_positions.weight": variables["decoder/position_encodings/encodings"],
        "model.decoder.embed_tokens.weight": variables["decoder/embeddings/weight"],
    }
    for convolution in ("conv1", "conv2"):
        state |= _renamed(variables, f"encoder/{convolution}", f"model.encoder.{convolution}")
    for side in ("encoder", "decoder"):
        state |= _renamed(variables, f"{side}/layer_norm", f"model.{side}.layer_norm")
        for layer in range(layers):
            state |= _layer(variables, f"{side}/layer_{layer}", f"model.{side}.layers.{layer}", decoder=side == "decoder")
    return state


def _renamed(variables: Mapping[str, torch.Tensor], source: str, target: str) -> dict[str, torch.Tensor]:
    suffixes = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}
    return {f"{target}.{suffix}": variables[f"{source}/{name}"] for name, suffix in suffixes.items() if f"{source}/{name}" in variables}


def _layer(variables: Mapping[str, torch.Tensor], source: str, target: str, *, decoder: bool) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = {}
    for name, ct2_name in _ATTENTION.items() if decoder else [("self_attn", "self_attention")]:
        # CTranslate2 fuses q, k, v of self-attention (linear_0), and k, v of cross-attention (linear_1); the output projection comes last
        fused = [("linear_0", "qkv"), ("linear_1", "o")] if name == "self_attn" else [("linear_0", "q"), ("linear_1", "kv"), ("linear_2", "o")]
        for linear, projections in fused:
            state |= _split(variables, f"{source}/{ct2_name}/{linear}", f"{target}.{name}", projections)
        state |= _renamed(variables, f"{source}/{ct2_name}/layer_norm", f"{target}.{name}_layer_norm")
    state |= _renamed(variables, f"{source}/ffn/linear_0", f"{target}.fc1") | _renamed(variables, f"{source}/ffn/linear_1", f"{target}.fc2")
    return state | _renamed(variables, f"{source}/ffn/layer_norm", f"{target}.final_layer_norm")


def _split(variables: Mapping[str, torch.Tensor], source: str, target: str, projections: str) -> dict[str, torch.Tensor]:
    weights = variables[f"{source}/weight"].chunk(len(projections))
    biases = variables[f"{source}/bias"].chunk(len(projections))
    state: dict[str, torch.Tensor] = {}
    for letter, weight, bias in zip(projections, weights, biases, strict=True):
        name = f"{target}.out_proj" if letter == "o" else f"{target}.{letter}_proj"
        state[f"{name}.weight"] = weight.contiguous()
        if letter == "k":
            assert not bias.any(), source  # Whisper's key projection has no bias; CTranslate2 fills it with zeros
        else:
            state[f"{name}.bias"] = bias.contiguous()
    return state


def _generation_config(ct2_config: Mapping[str, Any], tokenizer: Any) -> Any:
    """Everything `generate` needs to detect the language and to transcribe or translate without further arguments."""
    from transformers import GenerationConfig

    def token_id(token: str) -> int:
        return int(tokenizer.convert_tokens_to_ids(token))

    return GenerationConfig(
        decoder_start_token_id=token_id("<|startoftranscript|>"),
        bos_token_id=token_id("<|endoftext|>"),
        eos_token_id=token_id("<|endoftext|>"),
        pad_token_id=token_id("<|endoftext|>"),
        max_length=448,
        is_multilingual=True,
        task="transcribe",  # without a default task generate() leaves the task token out and the text degenerates into repetition
        lang_to_id={tokenizer.convert_ids_to_tokens(index): index for index in ct2_config["lang_ids"]},
        task_to_id={"transcribe": token_id("<|transcribe|>"), "translate": token_id("<|translate|>")},
        no_timestamps_token_id=token_id("<|notimestamps|>"),
        prev_sot_token_id=token_id("<|startofprev|>"),
        max_initial_timestamp_index=50,
        suppress_tokens=ct2_config["suppress_ids"],
        begin_suppress_tokens=ct2_config["suppress_ids_begin"],
        alignment_heads=ct2_config["alignment_heads"],
        return_timestamps=False,
    )
