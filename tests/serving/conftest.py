"""A tiny random model behind a real server on the loopback interface."""

import base64
import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from nemo_desta.models import DestaModel
from nemo_desta.serving.settings import LimitsConfig, ServeConfig, Transcripts
from tests.tiny import tiny_model_config

# The web server is an extra; its tests are skipped where it is not installed.
_installed = all(find_spec(name) for name in ("fastapi", "uvicorn", "prometheus_client", "pydantic", "httpx"))
collect_ignore = [] if _installed else [path.name for path in Path(__file__).parent.glob("test_*.py")]


def tone(seconds: float = 0.5, *, hz: float = 220.0, rate: int = 16_000, channels: int = 1) -> np.ndarray:
    """A sine."""
    t = np.arange(int(seconds * rate)) / rate
    mono = (0.3 * np.sin(2 * np.pi * hz * t)).astype(np.float32)
    return mono if channels == 1 else np.stack([mono] * channels, axis=1)


def encoded(samples: np.ndarray, kind: str = "wav", *, rate: int = 16_000) -> bytes:
    """A sound file in memory."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind.upper())
    return file.getvalue()


def audio_part(data: bytes, kind: str = "wav", **extra: object) -> dict:
    """OpenAI's part of a message."""
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": kind, **extra}}


def ask(*parts: object, question: str = "What is it?") -> list[dict]:
    """A conversation of one turn."""
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> DestaModel:
    torch.manual_seed(0)
    model = DestaModel.from_config(tiny_model_config(tmp_path_factory.mktemp("serving"))).eval()
    with torch.no_grad():  # a fresh random model says the same token for ever; larger weights make it say different ones
        for name, weight in model.backbone.base.named_parameters():
            if "norm" not in name:
                weight.mul_(8.0 if "embed" not in name else 3.0)
    return model


def config(**settings: object) -> ServeConfig:
    """Of a test server; `limits` is a dictionary of changes."""
    limits = replace(LimitsConfig(default_new_tokens=8), **settings.pop("limits", {}))  # type: ignore[arg-type]
    basis = ServeConfig(checkpoint="tiny", served_model_name="tiny", port=0, transcripts=Transcripts.off, shutdown_seconds=2.0, max_batch_size=4)
    return replace(basis, limits=limits, **settings)  # type: ignore[arg-type]


@contextmanager
def running(app: object) -> Iterator[str]:
    """Serve an application in a thread; gives its address."""
    import uvicorn

    from nemo_desta.serving.server import _listen, _uvicorn

    listening = _listen("127.0.0.1", 0)
    server = uvicorn.Server(_uvicorn(app, config()))  # type: ignore[arg-type]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=60)
        listening.close()
        assert not thread.is_alive(), "the server did not shut down"


@pytest.fixture(scope="module")
def serve(model: DestaModel) -> Iterator[Callable[..., str]]:
    """Function: settings -> address of a server with them, which lives as long as the test module."""
    from contextlib import ExitStack

    from nemo_desta.serving.server import make_app

    known: dict[str, str] = {}
    with ExitStack() as stack:

        def start(**settings: object) -> str:
            key = repr(sorted(settings.items()))
            if key not in known:
                known[key] = stack.enter_context(running(make_app(config(**settings), model)))
            return known[key]

        yield start
