"""The engine's own loop gives the tokens that ``model.generate`` gives."""

from pathlib import Path

import pytest
import torch

from nemo_desta.backbones.hf import resolve_dtype
from nemo_desta.config import Precision
from nemo_desta.generation.engines.base import LENGTH, STOP, Completion, Sampling, row_seed
from nemo_desta.generation.engines.transformers import TransformersEngine, _shared_prefix
from tests.generation.clips import lively_llm
from tests.tiny import tiny_llm

QUESTIONS = ("a", "the rain", "x" * 30, "it is his", "")
PROMPTS = [f"<|im_start|>system\nListen.<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n" for question in QUESTIONS]
KEYS = ["k0", "k1", "k2", "k3", "k4"]


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama."""
    return lively_llm(tmp_path_factory.mktemp("llm"))


def engine(llm: Path, **sampling: float) -> TransformersEngine:
    return TransformersEngine(llm, Sampling(**{"temperature": 0.0, "max_new_tokens": 24, **sampling}), Precision.fp32, device="cpu")  # type: ignore[arg-type]


def reference(e: TransformersEngine, prompt: str) -> Completion:
    ids = torch.tensor([e.tokenizer(prompt, add_special_tokens=False)["input_ids"]])
    ends = sorted(e.stop_ids)
    out = e.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24, pad_token_id=0, eos_token_id=ends)
    new = out[0, ids.shape[1] :].tolist()
    return Completion(e.tokenizer.decode(new, skip_special_tokens=True).rstrip("\ufffd").strip(), STOP if new[-1] in ends else LENGTH, len(new))


def test_greedy_equals_generate(llm: Path) -> None:
    e = engine(llm)
    # A random model does not end its turns: let a token end them that it writes, in the middle of some answers.
    written, _ = e._decode(e._encode(PROMPTS), None)
    e.stop_ids = frozenset({next(token for token in written[0][4:] if token not in written[1])})
    answers = e.generate(PROMPTS, KEYS)
    assert answers == [reference(e, prompt) for prompt in PROMPTS]
    assert len({a.num_tokens for a in answers}) > 1
    assert {a.finish_reason for a in answers} == {STOP, LENGTH}


def test_sampling_depends_on_the_row_alone(llm: Path) -> None:
    e = engine(llm, temperature=1.0)
    together = e.generate(PROMPTS, KEYS)
    reordered = e.generate(PROMPTS[::-1], KEYS[::-1])[::-1]
    assert together == reordered == [e.generate([p], [k])[0] for p, k in zip(PROMPTS, KEYS, strict=True)]
    assert together != e.generate(PROMPTS, ["other0", "other1", "other2", "other3", "other4"])
    assert e.generate([PROMPTS[0]] * 2, ["k0", "k1"])[0] != e.generate([PROMPTS[0]] * 2, ["k0", "k1"])[1]


def test_sampling_draws_from_the_distribution(llm: Path) -> None:
    e = engine(llm, temperature=1.0)
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2]]))
    draws = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64)
    tokens = e._pick(logits.expand(1000, -1), draws)
    assert torch.bincount(tokens).tolist() == [500, 300, 200]
    narrow = engine(llm, temperature=1.0, top_p=0.6)
    assert torch.bincount(narrow._pick(logits.expand(1000, -1), draws), minlength=3)[2] == 0


def test_very_low_temperature_is_greedy(llm: Path) -> None:
    assert engine(llm, temperature=1e-4).generate(PROMPTS, KEYS) == engine(llm).generate(PROMPTS, KEYS)


def test_edges(llm: Path) -> None:
    e = engine(llm)
    assert e.describe() == {"engine": "transformers", "dtype": "float32", "device": "cpu", "threads": torch.get_num_threads()}
    assert e.generate([], []) == [] and e.count_tokens([]) == []
    assert _shared_prefix([[1, 2, 3], [1, 2, 3]]) == 2 and _shared_prefix([[1], [2, 3]]) == 0 and _shared_prefix([[1, 2, 5], [1, 2, 6, 7]]) == 2
    assert row_seed(0, "a") != row_seed(0, "b") != row_seed(1, "b")


def test_auto_precision_follows_the_device_of_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert resolve_dtype(Precision.auto, torch.device("cpu")) == torch.float32
    assert resolve_dtype(Precision.auto, torch.device("cuda")) == resolve_dtype(Precision.auto) == torch.bfloat16


@pytest.mark.parametrize("bad", [{"temperature": -0.1}, {"top_p": 0.0}, {"top_p": 1.1}, {"max_new_tokens": 0}])
def test_bad_sampling_is_named(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Sampling(**bad)  # type: ignore[arg-type]


def test_a_model_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    folder = tiny_llm(tmp_path)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="no chat template"):
        engine(folder)
