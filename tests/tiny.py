"""Tiny random models, a tiny tokenizer and a tiny corpus: real components, small enough for every test."""

import json
import signal
from pathlib import Path

import numpy as np
import soundfile
import torch
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, WhisperConfig, WhisperForConditionalGeneration

from nemo_desta.config import ConnectorConfig, ModelConfig, PadTo, Precision
from nemo_desta.data.supervision import add_self_generated

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ '<|begin_of_text|>' }}<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: {{ date_string }}\n\n"
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] | trim }}{% endif %}<|eot_id|>"
    "{% for m in messages if m['role'] != 'system' %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
SPECIALS = ["<|im_end|>", "<|im_start|>", "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|placeholder|>"]
PLACEHOLDER = "<|placeholder|>"


def tiny_tokenizer(template: str = CHATML) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a few merges and a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["th", "he", "in", "er", "an", "Ġt", "Ġa", "Ġs", "ou", "is"]
    vocab = {piece: i for i, piece in enumerate([*alphabet, *words])}
    raw = Tokenizer(models.BPE(vocab, [(w[0], w[1:]) for w in words]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    eos = "<|im_end|>" if template == CHATML else "<|eot_id|>"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=eos, pad_token=eos, additional_special_tokens=SPECIALS)
    tokenizer.chat_template = template
    return tokenizer


def tiny_llm(folder: Path, *, layers: int = 2, heads: int = 4) -> Path:
    """A random Llama of 64 dimensions with its tokenizer."""
    tokenizer = tiny_tokenizer()
    torch.manual_seed(11)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_whisper(folder: Path) -> Path:
    """A random Whisper of 32 dimensions and 4 layers."""
    torch.manual_seed(12)
    config = WhisperConfig(
        d_model=32,
        encoder_layers=4,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_mel_bins=80,
        vocab_size=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=3,
    )
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    return folder


def tiny_model_config(root: Path, **connector: object) -> ModelConfig:
    """Encoder and LLM below ``root``, and a small connector."""
    llm, encoder = root / "llm", root / "whisper"
    if not llm.exists():
        tiny_llm(llm)
    if not encoder.exists():
        tiny_whisper(encoder)
    settings = {"num_layers": 1, "num_queries": 3, "ffn_size": 48, "dropout": 0.1} | connector
    return ModelConfig(
        llm=str(llm),
        encoder=str(encoder),
        placeholder_token=PLACEHOLDER,
        pad_to=PadTo.longest,
        llm_precision=Precision.fp32,
        connector=ConnectorConfig(**settings),
    )


def write_tone(path: Path, seconds: float, *, hz: float = 220.0, rate: int = 16_000, amplitude: float = 0.3) -> Path:
    """A sine as a sound file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    t = np.arange(int(seconds * rate)) / rate
    soundfile.write(path, amplitude * np.sin(2 * np.pi * hz * t), rate)
    return path


def tone_cut(folder: Path, index: int, seconds: float, *, text: str | None = None) -> MonoCut:
    """A cut on a tone of its own pitch, with a source supervision."""
    path = write_tone(folder / f"tone{index}.flac", seconds, hz=120 + 17 * index)
    recording = Recording.from_file(path, recording_id=f"tone{index}")
    cut = recording.to_cut()
    cut.id = f"tone-{index}"
    cut.supervisions = [SupervisionSegment(id=f"tone-{index}-src", recording_id=recording.id, start=0, duration=cut.duration, text=text)]
    cut.custom = {"dataset": "tones", "domain": "sound", "split": "train"}
    return cut


def tiny_targets(folder: Path, clips: int = 12, rows_each: int = 2) -> CutSet:
    """Cuts on tones with self-generated rows, also written to ``folder/targets/cuts_train.jsonl.gz``."""
    cuts = []
    for i in range(clips):
        cut = tone_cut(folder / "audio", i, 0.4 + 0.1 * (i % 5), text="a tone" if i % 2 else None)
        for k in range(rows_each):
            messages = [{"role": "system", "content": "Listen."}, {"role": "user", "content": f"<|AUDIO|>\n\nWhat is it, take {k}?"}]
            response = f"It is tone number {i}."
            cut = add_self_generated(
                cut,
                row_id=f"row-{i}-{k}",
                response=response,
                messages=messages,
                prompt=messages[1]["content"],
                prompt_id=f"p{k}",
                prompt_kind="attribute",
                attribute="sound",
                generator={"model": "tiny"},
            )
        cuts.append(cut)
    result = CutSet.from_cuts(cuts)
    path = folder / "targets" / "cuts_train.jsonl.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    result.to_file(path)
    return result


def default_interrupt() -> None:
    """For `preexec_fn`: let a child hear Ctrl-C although a shell started the tests in the background, where SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def read_json(path: Path) -> dict:
    """A JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
