"""Converters: tiny models round trip through the source formats; the real ones answer and transcribe."""

import gzip
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from nemo_desta.assets import is_cached
from nemo_desta.assets.convert.ctranslate2_whisper import read_ctranslate2, whisper_state_dict
from nemo_desta.assets.convert.gguf_llama import convert_gguf_llama

Asset = Callable[..., dict[str, Path]]


def _gguf_order(weight: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp does to query and key rows: interleave the two halves of each head."""
    return np.concatenate([np.stack(np.split(head, 2), axis=1).reshape(head.shape) for head in np.split(weight, heads)])


def test_gguf_llama_round_trip(tmp_path: Path) -> None:
    from gguf import GGUFWriter
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    byte_tokens = [chr(code) for code in [*range(33, 127), *range(161, 173), *range(174, 256)]] + [chr(256 + n) for n in range(68)]
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *byte_tokens, "he"]
    config = LlamaConfig(vocab_size=len(tokens), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    config.tie_word_embeddings, config.rope_parameters = True, {"rope_type": "default", "rope_theta": 5000.0}
    model = LlamaForCausalLM(config).eval()
    writer = GGUFWriter(tmp_path / "tiny.gguf", "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(5000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["h e"])
    for add, index in ((writer.add_bos_token_id, 1), (writer.add_eos_token_id, 2), (writer.add_unk_token_id, 0), (writer.add_pad_token_id, 2)):
        add(index)
    writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}")
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    writer.add_tensor("token_embd.weight", state["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", state["model.norm.weight"])
    for layer in range(2):
        source, target = f"model.layers.{layer}", f"blk.{layer}"
        writer.add_tensor(f"{target}.attn_q.weight", _gguf_order(state[f"{source}.self_attn.q_proj.weight"], 4))
        writer.add_tensor(f"{target}.attn_k.weight", _gguf_order(state[f"{source}.self_attn.k_proj.weight"], 2))
        for ours, theirs in {"self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "input_layernorm": "attn_norm"}.items():
            writer.add_tensor(f"{target}.{theirs}.weight", state[f"{source}.{ours}.weight"])
        for ours, theirs in {"post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}.items():
            writer.add_tensor(f"{target}.{theirs}.weight", state[f"{source}.{ours}.weight"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    (tmp_path / "hf").mkdir()
    convert_gguf_llama(tmp_path / "tiny.gguf", tmp_path / "hf")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert tokenizer.tokenize("the 12") == ["t", "he", "Ġ", "1", "2"]
    ids = torch.tensor([tokenizer("<|im_start|>the 12<|im_end|>").input_ids])
    assert ids[0, 0] == 1 and ids[0, -1] == 2
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits, atol=1e-6, rtol=1e-5)


def _ctranslate2_bytes(variables: dict[str, np.ndarray], aliases: dict[str, str], specification: str = "WhisperSpec") -> bytes:
    def string(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    result = struct.pack("<I", 6) + string(specification) + struct.pack("<II", 3, len(variables))
    for name, values in variables.items():
        result += string(name) + struct.pack("<B", values.ndim) + struct.pack(f"<{values.ndim}I", *values.shape)
        result += struct.pack("<BI", {"float32": 0, "float16": 4}[values.dtype.name], values.nbytes) + values.tobytes()
    return result + struct.pack("<I", len(aliases)) + b"".join(string(a) + string(b) for a, b in aliases.items())


def _to_ctranslate2(state: dict[str, np.ndarray], layers: int) -> dict[str, np.ndarray]:
    """Whisper's Hugging Face weights under CTranslate2's names, attention projections fused as its converter does it."""
    out = {"decoder/embeddings/weight": state["model.decoder.embed_tokens.weight"]}
    for side in ("encoder", "decoder"):
        out[f"{side}/position_encodings/encodings"] = state[f"model.{side}.embed_positions.weight"]
        norms = {f"model.{side}.layer_norm": f"{side}/layer_norm"}
        for index in range(layers):
            hf, ct2 = f"model.{side}.layers.{index}", f"{side}/layer_{index}"
            norms |= {f"{hf}.self_attn_layer_norm": f"{ct2}/self_attention/layer_norm", f"{hf}.final_layer_norm": f"{ct2}/ffn/layer_norm"}
            fused = {
                f"{ct2}/self_attention/linear_0": [f"{hf}.self_attn.{p}_proj" for p in "qkv"],
                f"{ct2}/self_attention/linear_1": [f"{hf}.self_attn.out_proj"],
            }
            if side == "decoder":
                norms[f"{hf}.encoder_attn_layer_norm"] = f"{ct2}/attention/layer_norm"
                groups = (["q_proj"], ["k_proj", "v_proj"], ["out_proj"])
                fused |= {f"{ct2}/attention/linear_{n}": [f"{hf}.encoder_attn.{p}" for p in group] for n, group in enumerate(groups)}
            fused |= {f"{ct2}/ffn/linear_0": [f"{hf}.fc1"], f"{ct2}/ffn/linear_1": [f"{hf}.fc2"]}
            for target, sources in fused.items():
                weights = [state[f"{source}.weight"] for source in sources]
                biases = [state.get(f"{source}.bias", np.zeros(len(weight), np.float32)) for source, weight in zip(sources, weights, strict=True)]
                out[f"{target}/weight"], out[f"{target}/bias"] = np.concatenate(weights), np.concatenate(biases)
        for source, target in norms.items():
            out[f"{target}/gamma"], out[f"{target}/beta"] = state[f"{source}.weight"], state[f"{source}.bias"]
    for name in ("conv1", "conv2"):
        out |= {f"encoder/{name}/{kind}": state[f"model.encoder.{name}.{kind}"] for kind in ("weight", "bias")}
    return out


def test_whisper_round_trip(tmp_path: Path) -> None:
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    torch.manual_seed(0)
    sizes = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    model = WhisperForConditionalGeneration(
        WhisperConfig(vocab_size=60, d_model=16, num_mel_bins=8, max_source_positions=20, max_target_positions=10, **sizes, pad_token_id=0)
    )
    torch.nn.init.normal_(model.model.decoder.embed_positions.weight)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)  # they start as zeros, which would hide a mix-up
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    content = _ctranslate2_bytes(_to_ctranslate2(state, 2), {"decoder/projection/weight": "decoder/embeddings/weight"})
    parts = [tmp_path / "part1", tmp_path / "part2"]
    parts[0].write_bytes(content[:1001])
    parts[1].write_bytes(content[1001:])
    variables = read_ctranslate2(parts)
    assert np.array_equal(variables["decoder/projection/weight"], variables["decoder/embeddings/weight"])
    converted = whisper_state_dict({name: torch.from_numpy(values.copy()) for name, values in variables.items()}, 2)
    assert set(converted) == set(state) - {"proj_out.weight"}
    for name, tensor in converted.items():
        assert np.array_equal(tensor.numpy(), state[name]), name


def test_other_ctranslate2_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(_ctranslate2_bytes({}, {}, "TransformerSpec"))
    with pytest.raises(ValueError, match="'TransformerSpec'"):
        read_ctranslate2([tmp_path / "model.bin"])


@pytest.mark.assets
def test_smollm2_answers_and_stops(asset: Asset) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = asset("smollm2-135m-instruct")["smollm2-135m-instruct"]
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForCausalLM.from_pretrained(path).eval()
    assert model.dtype == torch.float32
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    assert [tokenizer(token).input_ids for token in ("<|im_start|>", "<|im_end|>")] == [[1], [2]]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 2)
    assert tokenizer.tokenize("a 345") == ["a", "Ġ", "3", "4", "5"]
    for sample in ("Grüße, it's  half  past 12!\n\n", "привет <|im_end|> x"):
        assert tokenizer.decode(tokenizer(sample).input_ids) == sample
    ids = tokenizer(text, return_tensors="pt")
    output = model.generate(**ids, max_new_tokens=40, do_sample=False)[0, ids.input_ids.shape[1] :]
    assert output[-1] == 2 and len(output) < 40, "must stop at <|im_end|> by itself"
    assert "Paris" in tokenizer.decode(output)


def _decode_g722(path: Path) -> np.ndarray:
    import av

    with av.open(str(path), format="g722") as container:
        frames = [frame.to_ndarray().ravel() for frame in container.decode(audio=0)]
    return np.concatenate(frames).astype(np.float32) / 32768


def _normalised(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


@pytest.mark.assets
@pytest.mark.parametrize(
    ("language", "voice", "names"),
    [("en", "en_US_f_Allison", ("agent-pass", "ss-noservice")), ("it", "it_IT_m_Carlo", ("agent-pass",))],
)
def test_whisper_transcribes_documented_prompts(language: str, voice: str, names: tuple[str, ...], asset: Asset) -> None:
    from jiwer import cer
    from transformers import AutoProcessor, WhisperForConditionalGeneration

    audio, text = f"asterisk-core-sounds-{language}-g722", f"asterisk-core-sounds-{language}"
    if language != "en" and not is_cached(audio):
        pytest.skip(f"{audio} is not in the ci tier and has not been fetched")
    paths = asset("whisper-base", audio, text)
    document = gzip.decompress((paths[text] / f"usr/share/doc/{text}/core-sounds-{language}.txt.gz").read_bytes()).decode()
    truth = dict(line.split(": ", 1) for line in document.splitlines() if ": " in line and not line.startswith(";"))
    processor, model = AutoProcessor.from_pretrained(paths["whisper-base"]), WhisperForConditionalGeneration.from_pretrained(paths["whisper-base"])
    clips = [_decode_g722(paths[audio] / f"usr/share/asterisk/sounds/{voice}/{name}.g722") for name in names]
    features = processor(clips, sampling_rate=16000, return_tensors="pt").input_features
    answers = processor.batch_decode(model.generate(features), skip_special_tokens=True)  # the language is detected
    assert cer([_normalised(truth[name]) for name in names], [_normalised(answer) for answer in answers]) < 0.1
