"""Exported models in vLLM: prompts and greedy answers are PyTorch's, from Python and over HTTP.

Needs vLLM, here or in an interpreter of its own that ``NEMO_DESTA_VLLM`` names (`tools/vllm_env.sh` makes one; `.ci/vllm` runs this file).
"""

import base64
import contextlib
import io
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from nemo_desta.data.conversation import AUDIO_LOCATOR, render
from nemo_desta.export import verify_vllm
from nemo_desta.export.reference import prompt_embeds
from nemo_desta.export.runtime import Prompt
from nemo_desta.export.source import made_clips
from nemo_desta.export.verify_vllm import ask, sound
from nemo_desta.modules.transcriber import WhisperTranscriber
from tests.export.test_vllm_parts import vllm_part

pytestmark = [
    pytest.mark.skipif(verify_vllm.interpreter() is None, reason=verify_vllm.MISSING),
    pytest.mark.slow,
    pytest.mark.timeout(1500),
]
SYSTEM = {"role": "system", "content": "Focus on the audio clips and instructions."}
NEW_TOKENS = 12


class Wanted:
    """What PyTorch says."""

    def __init__(self, model, clips, heard=()):
        self.model, self.layout, self.heard = model, replace(model.layout, max_transcript_tokens=None), heard
        with torch.inference_mode():
            self.embeds_CQH = torch.cat([model.perception.listen([clip]) for clip in clips])

    def __call__(self, question, clips, words, new_tokens=NEW_TOKENS):
        """Ids of the prompt and of the greedy answer; the answer's text."""
        user = {"role": "user", "content": "\n\n".join([*[AUDIO_LOCATOR] * len(clips), question])}
        words = [self.heard[i] if said is None else said for i, said in zip(clips, words, strict=True)]
        rendered = render([SYSTEM, user] if clips else [user], self.model.tokenizer, self.layout, transcripts=words)
        x_1TH = prompt_embeds(self.model, Prompt(rendered.input_ids, rendered.audio_spans, clips), self.embeds_CQH)
        with torch.inference_mode():
            answer = self.model.backbone.generate(x_1TH, torch.ones(x_1TH.shape[:2], dtype=torch.long), max_new_tokens=new_tokens)[0]
        answer = [int(token) for token in answer]
        return rendered.input_ids, answer, self.model.tokenizer.decode(answer, skip_special_tokens=True)


def turns(clips, question, numbers, words):
    """The conversation for vLLM; words None = left open."""
    parts = [sound(clips[i], **({} if said is None else {"transcript": said})) for i, said in zip(numbers, words, strict=True)]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(what PyTorch says, clips, directory of the model) of the made model."""
    torch.manual_seed(0)
    model, bundle = vllm_part(tmp_path_factory.mktemp("vllm"), family="qwen3")  # vLLM on a CPU has no heads narrower than 32
    clips = made_clips(5)
    heard = WhisperTranscriber.from_pretrained(bundle / "vllm" / "transcriber").transcribe([torch.from_numpy(clip) for clip in clips])
    return Wanted(model, clips, heard), clips, bundle / "vllm"


CASES = [
    ("What do you hear?", (0,), ("in the house",)),
    ("Which sound?", (1,), ("",)),
    ("And here?", (2,), (None,)),  # left open: the model's own Whisper writes them
    ("The same?", (3, 4), ("he is", "")),
    ("Twice?", (2, 2), ("one", "an other")),  # the same sound with other words
    ("Four?", (4, 0, 3, 1), ("a", None, "", "the end. <b>")),
    ("What is two and two?", (), ()),
]


def test_prompts_and_greedy_answers_are_pytorchs(made):
    wanted, clips, folder = made
    said = ask(folder, "float32", [turns(clips, *case) for case in CASES], new_tokens=NEW_TOKENS, max_length=1024)
    expected = [wanted(question, numbers, words) for question, numbers, words in CASES]
    assert said["prompts"] == [ids for ids, _, _ in expected]
    assert said["answers"] == [answer for _, answer, _ in expected]
    assert len({tuple(answer) for answer in said["answers"]}) > 3  # otherwise equality would prove little


@contextlib.contextmanager
def served(folder: Path, *flags: str) -> Iterator[str]:
    """``vllm serve`` until the block ends; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(str(verify_vllm.interpreter())).with_name("vllm")
    limits = ["--max-model-len", "1024", "--max-num-seqs", "4", "--limit-mm-per-prompt", '{"audio": 2}', "--dtype", "float32", "--enforce-eager"]
    log = folder.with_name("server.log")
    command = [str(program), "serve", str(folder), "--port", str(port), "--host", "127.0.0.1", "--served-model-name", "desta", *limits, *flags]
    with log.open("w") as out, subprocess.Popen(command, env=verify_vllm.environment(), stdout=out, stderr=subprocess.STDOUT) as server:
        try:
            wait_for(port, server, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            server.wait(60)


def wait_for(port: int, server: "subprocess.Popen[bytes]", log: Path, seconds: float = 600) -> None:
    httpx = pytest.importorskip("httpx")
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        assert server.poll() is None, log.read_text()[-3000:]
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200:
                return
        time.sleep(1)
    pytest.fail(log.read_text()[-3000:])


def test_the_server_answers_openais_chat_api_with_audio(made):
    openai = pytest.importorskip("openai", reason="needs the openai client: pip install -e '.[dev]'")
    wanted, clips, folder = made
    settings = {"model": "desta", "temperature": 0, "max_tokens": NEW_TOKENS}
    with served(folder) as url:
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=300)
        for case in CASES[:5] + CASES[-1:]:
            answer = client.chat.completions.create(messages=turns(clips, *case), **settings)
            ids, tokens, text = wanted(*case)
            assert answer.usage.completion_tokens == len(tokens)
            # vLLM holds back bytes at the end that are no whole letter yet
            assert answer.choices[0].message.content.rstrip("\ufffd") == text.rstrip("\ufffd") and answer.usage.prompt_tokens == len(ids)
        stream = client.chat.completions.create(messages=turns(clips, *CASES[0]), stream=True, **settings)
        streamed = "".join(piece.choices[0].delta.content or "" for piece in stream if piece.choices)
        assert streamed.rstrip("\ufffd") == wanted(*CASES[0])[2].rstrip("\ufffd")
        broken = {"type": "input_audio", "input_audio": {"data": base64.b64encode(b"RIFF no sound").decode(), "format": "wav"}}
        text = {"type": "text", "text": "What?"}
        refused = {
            "Invalid or corrupted audio": [broken, text],
            "At most 2 audio": [*[sound(clips[0])] * 3, text],
            "placeholder token": [{"type": "text", "text": "a <|placeholder|>"}],
            "the encoder takes 30 s": [sound(np.zeros(31 * 16_000, np.float32)), text],
            "a transcript holds the special token": [sound(clips[0], transcript="go on <|placeholder|>"), text],
            "marks 2 places": [sound(clips[0]), {"type": "text", "text": f"{AUDIO_LOCATOR} {AUDIO_LOCATOR}"}],
        }
        for said, content in refused.items():
            with pytest.raises(openai.BadRequestError) as error:
                client.chat.completions.create(messages=[{"role": "user", "content": content}], **settings)
            assert said in str(error.value), (said, str(error.value))
        rate = io.BytesIO()  # another rate and two channels
        soundfile.write(rate, np.stack([np.repeat(clips[0], 2)] * 2, axis=1), 32_000, format="FLAC")
        part = {"type": "input_audio", "input_audio": {"data": base64.b64encode(rate.getvalue()).decode(), "format": "flac"}, "transcript": ""}
        assert client.chat.completions.create(messages=[{"role": "user", "content": [part, text]}], **settings).usage.prompt_tokens > 0


@pytest.mark.assets
def test_real_models_say_what_pytorch_says_on_real_clips(tmp_path, asset):
    """SmolLM2, Whisper-base and an untrained connector on 24 spoken clips of Asterisk: with Whisper's words, with given ones, without, in pairs."""
    from nemo_desta.corpora.audio import decode, to_mono_16k

    found = asset("asterisk-core-sounds-en-g722", "whisper-base", "smollm2-135m-instruct")
    files = sorted(found["asterisk-core-sounds-en-g722"].rglob("*.g722"))
    clips = [to_mono_16k(*decode(file)) for file in files[5 : 5 + 24 * 12 : 12]]
    model, bundle = vllm_part(tmp_path, checkpoint=untrained(tmp_path))
    heard = WhisperTranscriber.from_pretrained(bundle / "vllm" / "transcriber").transcribe([torch.from_numpy(clip) for clip in clips])
    assert len(clips) == 24 and sum(bool(text) for text in heard) > 20
    wanted = Wanted(model, clips)
    cases = [("What is said?", (i,), (None if i % 3 == 0 else "" if i % 3 == 1 else heard[i],)) for i in range(24)]
    cases += [("Who speaks?", (i, i + 1), (heard[i], None)) for i in range(0, 8, 2)] + [("Name a colour.", (), ())]
    said = ask(bundle / "vllm", "float32", [turns(clips, *case) for case in cases], new_tokens=24, max_length=512)
    expected = [wanted(q, numbers, tuple(heard[i] if w is None else w for i, w in zip(numbers, words, strict=True)), 24) for q, numbers, words in cases]
    assert said["prompts"] == [ids for ids, _, _ in expected]
    assert said["answers"] == [answer for _, answer, _ in expected]


def untrained(folder: Path) -> Path:
    """A checkpoint of the small recipe's size whose connector was never trained."""
    from nemo_desta.config import ConnectorConfig, ConnectorInit, ModelConfig, Precision
    from nemo_desta.models import DestaModel

    connector = ConnectorConfig(num_layers=2, init=ConnectorInit.embedding_scale)
    names = {"llm": "asset://smollm2-135m-instruct", "encoder": "asset://whisper-base", "placeholder_token": "<filename>"}
    torch.manual_seed(0)
    DestaModel.from_config(ModelConfig(**names, llm_precision=Precision.fp32, connector=connector)).save_pretrained(folder / "untrained")
    return folder / "untrained"
