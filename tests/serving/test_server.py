"""Starting and ending: settings, the engine's failures, signals, and the program itself."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf.errors import OmegaConfBaseException
from safetensors.torch import load_file, save_file

from nemo_desta.config import PadTo
from nemo_desta.export.tiny import make_tiny_checkpoint
from nemo_desta.models import DestaModel, build
from nemo_desta.modules.transcriber import WhisperTranscriber
from nemo_desta.serving.hearing import Listener
from nemo_desta.serving.prompt import Block, Conversation
from nemo_desta.serving.server import _listen, load_model, make_app
from nemo_desta.serving.settings import Transcripts, typed_serve
from tests.serving.conftest import ask, audio_part, config, encoded, running, tone
from tests.tiny import tiny_tokenizer

ROOT = Path(__file__).resolve().parents[2]


def composed(*overrides: str):
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        return typed_serve(compose("serve", overrides=list(overrides)))


def test_the_shipped_configuration_is_typed():
    assert composed("checkpoint=x", "limits.max_queue=3").limits.max_queue == 3
    with pytest.raises(Exception, match="nonsense"):
        composed("checkpoint=x", "nonsense=1")
    with pytest.raises(OmegaConfBaseException):
        composed("checkpoint=x", "+limits.nonsense=1")
    assert composed("checkpoint=x").transcripts is Transcripts.own is composed("checkpoint=x", "transcripts=whisper").transcripts
    for wrong in ("limits.max_queue=0", "port=70000", "limits.max_audio_seconds=-1", "max_batch_size=0"):
        with pytest.raises(ValueError, match=wrong.split("=")[0]):
            composed("checkpoint=x", wrong)


def test_users_mistakes_are_sentences(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint at"):
        load_model(config(checkpoint=str(tmp_path / "none")))
    with pytest.raises(ValueError, match="is not a checkpoint"):
        load_model(config(checkpoint=str(tmp_path)))
    taken = _listen("127.0.0.1", 0)
    with taken, pytest.raises(OSError, match="choose another host or port"):
        _listen("127.0.0.1", taken.getsockname()[1])


@pytest.fixture
def spoiled(tmp_path):
    """A made checkpoint that a test may spoil."""
    return make_tiny_checkpoint(tmp_path / "made")


def _lacks_a_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("perception.connector.layer_weights")
    save_file(tensors, folder / "model.safetensors")


def _for_a_wider_llm(folder):
    save_file(load_file(folder / "model.safetensors") | {"perception.connector.proj.1.weight": torch.zeros(80, 32)}, folder / "model.safetensors")


def _of_another_kind(folder):
    (folder / "config.json").write_text('{"model_type": "llama"}')


def _with_a_small_vocabulary(folder):
    path = folder.parent / "llm" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 100}))


MISFITS = [
    (_lacks_a_tensor, "lacks 1 of the connector's"),
    (_for_a_wider_llm, "trained for an LLM of width 80, .* has 64"),
    (_of_another_kind, "not a DeSTA2.5-Audio checkpoint"),
    (_with_a_small_vocabulary, "vocabulary ends at 99"),
]


@pytest.mark.parametrize(("spoil", "message"), MISFITS, ids=[spoil.__name__ for spoil, _ in MISFITS])
def test_what_does_not_fit_is_said_before_any_weights_are_read(spoiled, monkeypatch, spoil, message):
    spoil(spoiled)
    monkeypatch.setattr(build, "load_tokenizer", lambda llm: tiny_tokenizer())
    monkeypatch.setattr(DestaModel, "from_pretrained", lambda *a, **k: pytest.fail("the model was loaded"))
    with pytest.raises(ValueError, match=message):
        load_model(config(checkpoint=str(spoiled)))


def test_the_made_model_is_served_with_its_own_transcripts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = config(checkpoint="tiny-random", served_model_name=None, transcripts=Transcripts.own)
    body = {"model": "tiny-random", "messages": ask(audio_part(encoded(tone()))), "max_tokens": 3}
    with running(make_app(settings)) as base:
        answer = httpx.post(f"{base}/v1/chat/completions", json=body, timeout=240).json()
    assert answer["choices"][0]["finish_reason"] and answer["nemo_desta"]["audio"][0]["transcript"]
    assert (tmp_path / "runs" / "serve" / "tiny-random" / "checkpoint" / "config.json").is_file()


def test_a_failing_step_ends_its_requests_and_nothing_else(model, monkeypatch):
    app, hits = make_app(config(), model), []
    own = model.backbone.embed
    turns = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}

    def broken(ids):
        if ids.shape[-1] == 1 and not hits:
            hits.append(1)
            raise RuntimeError("secret path /x")
        return own(ids)

    with running(app) as base:
        monkeypatch.setattr(model.backbone, "embed", broken)
        failed = httpx.post(f"{base}/v1/chat/completions", json=turns, timeout=120)
        assert failed.status_code == 500 and "RuntimeError" in failed.json()["error"]["message"] and "secret" not in failed.text
        assert httpx.post(f"{base}/v1/chat/completions", json=turns, timeout=120).status_code == 200
        assert httpx.get(f"{base}/health").status_code == 200


@pytest.mark.parametrize("pad_to", list(PadTo))
def test_a_requests_sound_is_encoded_once(tmp_path, monkeypatch, pad_to):
    model = DestaModel.from_pretrained(make_tiny_checkpoint(tmp_path, pad_to=pad_to))
    encoder, passes, heard = model.perception.encoder, [], []
    own, transcribe = encoder.encode, WhisperTranscriber.transcribe_states
    sounds = [torch.from_numpy(tone(0.5)), torch.from_numpy(tone(0.8))]
    reference = WhisperTranscriber.from_pretrained(tmp_path / "whisper")
    wanted = reference.encode(reference.log_mel(sounds, PadTo.thirty_seconds)[0]).last_hidden_state
    listener = Listener(model, Transcripts.own)
    shares = pad_to is PadTo.thirty_seconds
    assert len(listener.transcriber.model.model.encoder.layers) == (0 if shares else 4)  # without its layers it cannot hear by itself
    monkeypatch.setattr(encoder, "encode", lambda *a: passes.append(len(a[0])) or own(*a))
    monkeypatch.setattr(WhisperTranscriber, "transcribe_states", lambda self, states: heard.append(states.last_hidden_state) or transcribe(self, states))
    blocks = [Block(0, 0, 0.5, sounds[0], None), Block(0, 0.5, 1.3, sounds[1], None)]
    prompt = listener.listen(Conversation([{"role": "user", "content": "<|AUDIO|>\n<|AUDIO|>\n\nWhat?"}], blocks))
    assert passes == [2] and len(heard) == 1 and torch.allclose(heard[0], wanted, atol=1e-4)
    assert all(prompt.transcripts) and prompt.transcripts == reference.transcribe(sounds)


def test_the_program_serves_and_ends_with_a_signal(model, tmp_path):
    checkpoint = tmp_path / "tiny-checkpoint"
    model.save_pretrained(checkpoint)
    command = [sys.executable, "-c", CHILD, json.dumps({"checkpoint": str(checkpoint)})]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        base = child.stdout.readline().strip()
        until = time.monotonic() + 200
        while time.monotonic() < until:
            try:
                if httpx.get(f"{base}/health", timeout=5).status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.2)
        body = {"messages": ask(audio_part(encoded(tone()))), "max_tokens": 400, "temperature": 1.0, "stream": True}
        with httpx.stream("POST", f"{base}/v1/chat/completions", json=body, timeout=200) as answer:
            lines = answer.iter_lines()
            first = next(lines)
            child.send_signal(signal.SIGTERM)  # the answer goes on to its end
            rest = [line for line in lines if line]
        assert '"tiny-checkpoint"' in first and rest[-1] == "data: [DONE]" and '"finish_reason": null' not in rest[-2]
        assert child.wait(timeout=200) == 0, child.stderr.read() if child.stderr else ""
    finally:
        child.kill()
        child.wait()


CHILD = """
import json, sys
from nemo_desta.serving.server import serve, _listen
from nemo_desta.serving.settings import ServeConfig, Transcripts
with _listen("127.0.0.1", 0) as probe:
    port = probe.getsockname()[1]
print(f"http://127.0.0.1:{port}", flush=True)
serve(ServeConfig(port=port, transcripts=Transcripts.off, shutdown_seconds=150, **json.loads(sys.argv[1])))
"""


def test_the_example_says_what_is_wrong():
    done = subprocess.run(
        [sys.executable, "examples/serve.py", "checkpoint=/none/there", "port=0"], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1].startswith("error: no checkpoint at /none/there")
