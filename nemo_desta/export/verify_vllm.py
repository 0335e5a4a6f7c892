"""What vLLM says to conversations. It runs in an interpreter of its own, because it pins its own torch: this one's if vLLM is installed here, else the one
that ``NEMO_DESTA_VLLM`` names (``tools/vllm_env.sh`` makes one).

That interpreter runs this file as a program: ``python -m nemo_desta.export.verify_vllm ASKED.json ANSWERS.json``.
"""

import base64
import importlib.util
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

INTERPRETER = "NEMO_DESTA_VLLM"
MISSING = f"vLLM is not installed here, and {INTERPRETER} names no Python that has it (tools/vllm_env.sh makes one)"
SECONDS = 1800
QUIET = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
QUIET |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
Conversation = list[dict[str, Any]]


class RejectedError(ValueError):
    """vLLM was started and ended without answers: by the bundle or by the machine, which its words tell."""


def interpreter() -> str | None:
    """A Python that has vLLM; None where there is none."""
    if importlib.util.find_spec("vllm") is not None:
        return sys.executable
    return os.environ.get(INTERPRETER) or None


def environment(plugins: str = "nemo_desta") -> dict[str, str]:
    """For a process of that Python: this library, little noise and memory unless the caller says otherwise, and no plugin but ours: NeMo's takes long."""
    root = Path(__file__).resolve().parents[2]
    paths = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    return QUIET | {"VLLM_PLUGINS": plugins} | dict(os.environ) | {"PYTHONPATH": paths}


def ask(model: Path, dtype: str, conversations: Sequence[Conversation], *, new_tokens: int, max_length: int, options: Mapping[str, Any] | None = None) -> Any:
    """Greedy answers to conversations, all in flight together.

    Args:
        model: ``vllm/`` of a bundle.
        dtype: of the weights.
        conversations: turns of OpenAI's API.
        new_tokens: of an answer, at most.
        max_length: tokens of prompt and answer, at most.
        options: further arguments of ``vllm.LLM``.

    Returns:
        ``version``, and for each conversation ``prompts`` and ``answers`` (token ids) and ``texts``.

    Raises:
        ValueError: there is no vLLM, it cannot be started or takes too long.
        RejectedError: it fails; the message ends with what it said.
    """
    python = interpreter()
    if python is None:
        raise ValueError(MISSING)
    with tempfile.TemporaryDirectory() as folder:
        asked, answers = Path(folder) / "asked.json", Path(folder) / "answers.json"
        settings = {"model": str(model.absolute()), "dtype": dtype, "max_model_len": max_length, **(options or {})}
        asked.write_text(json.dumps({"settings": settings, "conversations": list(conversations), "new_tokens": new_tokens}), encoding="utf-8")
        command = [python, "-m", "nemo_desta.export.verify_vllm", str(asked), str(answers)]
        try:
            done = subprocess.run(command, env=environment(plugins=""), capture_output=True, text=True, check=False, timeout=SECONDS)
        except OSError as error:
            raise ValueError(f"vLLM ({python}) cannot be started ({error}): let {INTERPRETER} name a Python that has it") from error
        except subprocess.TimeoutExpired as error:
            raise ValueError(f"vLLM ({python}) did not answer within {SECONDS} s: ask again on a machine that is free") from error
        if done.returncode:
            raise RejectedError(f"vLLM ({python}) cannot run {model}: {(done.stderr or done.stdout).strip()[-3000:]}")
        return json.loads(answers.read_text(encoding="utf-8"))


def sound(samples: Any, **extra: Any) -> dict[str, Any]:
    """A clip (16 kHz mono) as a part of a turn; a WAV of 32-bit floats, so that nothing is rounded."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, subtype="FLOAT", format="WAV")
    data = base64.b64encode(file.getvalue()).decode()
    return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}, **extra}


def main(asked: str, answers: str) -> None:
    """Ask vLLM in this process."""
    import vllm
    from vllm.model_executor.models.registry import ModelRegistry

    from nemo_desta.serving.vllm_plugin import register
    from nemo_desta.serving.vllm_plugin.config import ARCHITECTURE
    from nemo_desta.serving.vllm_plugin.model import NemoDestaForConditionalGeneration

    register()
    ModelRegistry.register_model(ARCHITECTURE, NemoDestaForConditionalGeneration)  # by itself: vLLM starts no process to look at it
    request = json.loads(Path(asked).read_text(encoding="utf-8"))
    defaults: dict[str, Any] = {"enforce_eager": True, "seed": 0, "max_num_seqs": 8, "limit_mm_per_prompt": {"audio": 4}}
    llm: Any = vllm.LLM(**defaults | request["settings"])
    sampling = vllm.SamplingParams(temperature=0, max_tokens=request["new_tokens"])
    outputs = llm.chat(request["conversations"], sampling, use_tqdm=False)
    said = {
        "version": vllm.__version__,
        "prompts": [list(output.prompt_token_ids) for output in outputs],
        "answers": [list(output.outputs[0].token_ids) for output in outputs],
        "texts": [output.outputs[0].text for output in outputs],
    }
    Path(answers).write_text(json.dumps(said), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
