"""A made model, small and random, in the same files as a trained one: for a first try of the export and for tests."""

import json
from pathlib import Path

import torch

from nemo_desta.config import ConnectorConfig, ConnectorInit, ModelConfig, PadTo, Precision

PLACEHOLDER = "<|placeholder|>"
SPECIALS = ["<|im_end|>", "<|im_start|>", PLACEHOLDER]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tiny_checkpoint(folder: Path, *, family: str = "llama", pad_to: PadTo = PadTo.longest, normalize_taps: bool = True) -> Path:
    """Write ``llm/``, ``whisper/`` and ``checkpoint/`` below a folder, unless they are there; always the same weights.

    Args:
        folder: where to write.
        family: of the LLM: llama (with Llama-3 rope scaling and tied embeddings), qwen2 or qwen3.
        pad_to: how the encoder's input is padded.
        normalize_taps: the connector standardises the encoder's taps by statistics that the checkpoint holds.

    Returns:
        The checkpoint's directory.

    Raises:
        ValueError: an unknown family.
    """
    from nemo_desta.models import DestaModel

    checkpoint = folder / "checkpoint"
    if (checkpoint / "model.safetensors").is_file() and (folder / "whisper" / "tokenizer.json").is_file():
        return checkpoint
    state = torch.random.get_rng_state()
    try:
        torch.manual_seed(17)
        _write_llm(folder / "llm", family)
        _write_whisper(folder / "whisper")
        settings = ConnectorConfig(num_layers=2, num_queries=4, ffn_size=48, init=ConnectorInit.embedding_scale, normalize_taps=normalize_taps)
        config = ModelConfig(
            llm=str(folder / "llm"),
            encoder=str(folder / "whisper"),
            placeholder_token=PLACEHOLDER,
            pad_to=pad_to,
            llm_precision=Precision.fp32,
            connector=settings,
        )
        model = DestaModel.from_config(config)
        if normalize_taps:  # neither zeros nor ones, which would hide statistics that were lost on the way
            torch.nn.init.normal_(model.perception.connector.tap_mean, std=0.3)
            torch.nn.init.uniform_(model.perception.connector.tap_std, 0.5, 1.5)
        model.save_pretrained(checkpoint)
    finally:
        torch.random.set_rng_state(state)
    return checkpoint


def _write_llm(folder: Path, family: str) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

    tokenizer = _tokenizer()
    sizes = {
        "vocab_size": len(tokenizer) + (-len(tokenizer)) % 2 + 1,  # odd, so that tensor parallelism has rows to pad
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,  # room for what the made Whisper says: it seldom ends before the transcriber's limit
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        # With the usual 0.02 a layer hardly changes its input, every answer repeats one token, and a comparison of tokens proves nothing.
        "initializer_range": 0.3,
    }
    llama3 = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    configs = {
        "llama": lambda: LlamaConfig(**sizes, tie_word_embeddings=True, rope_parameters=llama3),
        "qwen2": lambda: Qwen2Config(**sizes, tie_word_embeddings=False, rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
        "qwen3": lambda: Qwen3Config(**sizes, tie_word_embeddings=True, head_dim=32, rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
    }
    if family not in configs:
        raise ValueError(f"no tiny model of family {family!r}: there are {', '.join(configs)}")
    llm = AutoModelForCausalLM.from_config(configs[family](), dtype=torch.float32)
    for name, parameter in llm.named_parameters():
        if parameter.dim() == 1:  # norms and biases start as ones and zeros, which would hide a wrong layout
            torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.1)
    torch.nn.init.normal_(llm.get_input_embeddings().weight, std=0.1)  # small beside what the layers add to it
    llm.generation_config.eos_token_id = llm.generation_config.pad_token_id = tokenizer.eos_token_id
    llm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokenizer():  # type: ignore[no-untyped-def]
    """Byte-level BPE with a few merges and a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["th", "he", "in", "er", "an", "Ġt", "Ġa", "Ġs", "ou", "is"]
    vocab = {piece: i for i, piece in enumerate([*sorted(pre_tokenizers.ByteLevel.alphabet()), *words])}
    raw = Tokenizer(models.BPE(vocab, [(word[0], word[1:]) for word in words]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=SPECIALS[0], pad_token=SPECIALS[0], additional_special_tokens=SPECIALS)
    tokenizer.chat_template = CHATML
    return tokenizer


def _write_whisper(folder: Path) -> None:
    """A whole Whisper, decoder and tokenizer included: what it writes has no sense, but a server with it runs the whole way."""
    from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

    sizes = {"d_model": 32, "encoder_layers": 4, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    sizes |= {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_mel_bins": 80, "vocab_size": len(_WHISPER_WORDS)}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3}
    whisper = WhisperForConditionalGeneration(WhisperConfig(**sizes, **ids))
    token = _WHISPER_WORDS.index
    whisper.generation_config = GenerationConfig(
        **ids,
        max_length=448,
        is_multilingual=True,
        task="transcribe",
        lang_to_id={"<|en|>": token("<|en|>")},
        task_to_id={task: token(f"<|{task}|>") for task in ("transcribe", "translate")},
        no_timestamps_token_id=token("<|notimestamps|>"),
        suppress_tokens=[i for i, word in enumerate(_WHISPER_WORDS) if word.startswith("<") and i != ids["eos_token_id"]],
        begin_suppress_tokens=[ids["eos_token_id"]],  # at least one syllable
        return_timestamps=False,
    )
    whisper.save_pretrained(folder)
    _whisper_tokenizer().save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"] == "whisper"


_WHISPER_WORDS = [
    *("<pad>", "<bos>", "<|endoftext|>", "<|startoftranscript|>"),
    *(first + second for first in "bdfgklmnprstvz" for second in "aeio"),
    *("<|en|>", "<|transcribe|>", "<|translate|>", "<|notimestamps|>"),
]


def _whisper_tokenizer():  # type: ignore[no-untyped-def]
    """A syllable a token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(_WHISPER_WORDS)}, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    marks = [word for word in _WHISPER_WORDS if word.startswith("<|")]
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|endoftext|>", pad_token="<pad>", bos_token="<bos>", additional_special_tokens=marks)
