"""Starting the server: model, engine, HTTP."""

import logging
import math
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import uvicorn
from fastapi import FastAPI

from nemo_desta.export.source import find_source
from nemo_desta.models import DestaModel
from nemo_desta.serving.app import build_app
from nemo_desta.serving.engine import Engine
from nemo_desta.serving.hearing import Listener, check_decoder
from nemo_desta.serving.metrics import Metrics
from nemo_desta.serving.settings import ServeConfig, Transcripts, check

logger = logging.getLogger(__name__)
MADE_MODEL = Path("runs/serve/tiny-random")  # where checkpoint=tiny-random is written


def make_app(config: ServeConfig, model: DestaModel | None = None) -> FastAPI:
    """The whole application.

    Args:
        config: of the server.
        model: the model; None = loaded from ``config.checkpoint``.

    Raises:
        ValueError: the checkpoint or a setting does not fit; the message says which.
    """
    check(config)
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    model = (load_model(config) if model is None else model).eval()
    metrics = Metrics()
    engine = Engine(model, Listener(model, config.transcripts), config, metrics)
    return build_app(engine, config, model_name(config), metrics)


def load_model(config: ServeConfig) -> DestaModel:
    """The checkpoint's model on its device. What does not fit is found from configurations and file headers, before any weights are read.

    Raises:
        ValueError: no such checkpoint or device, missing tensors, a connector, LLM and tokenizer that do not belong together, or no one to write transcripts.
    """
    device = _device(config.device)
    source = find_source(config.checkpoint, MADE_MODEL.absolute(), llm=config.llm, encoder=config.encoder)
    if config.transcripts is not Transcripts.off:
        check_decoder(source.model_config.encoder)
    own = {"llm": source.model_config.llm, "encoder": source.model_config.encoder}
    return DestaModel.from_pretrained(source.checkpoint, **own).to(device)


def model_name(config: ServeConfig) -> str:
    """Id of the model in the API."""
    if config.served_model_name:
        return config.served_model_name
    path = Path(config.checkpoint)
    return path.resolve().name if path.is_dir() else config.checkpoint.removeprefix("hf://")


def serve(config: ServeConfig) -> None:
    """Run until SIGTERM or Ctrl-C; running answers get ``shutdown_seconds`` to end.

    Raises:
        ValueError: the checkpoint or a setting does not fit.
        OSError: the address is taken.
    """
    listening = _listen(config.host, config.port)  # before the model is loaded: a taken port is said at once
    try:
        app = make_app(config)
        host, port = listening.getsockname()[:2]
        logger.info("%s answers at http://%s:%d/v1%s", model_name(config), host, port, f", page at http://{host}:{port}/" if config.web else "")
        _Server(_uvicorn(app, config)).run(sockets=[listening])
    finally:
        listening.close()


def _uvicorn(app: FastAPI, config: ServeConfig) -> uvicorn.Config:
    # A body is refused by its size in `intake`; headers by h11's own limit. Answers may go on for the grace period after the signal.
    grace = max(1, math.ceil(config.shutdown_seconds))
    return uvicorn.Config(app, timeout_graceful_shutdown=grace, timeout_keep_alive=30, log_level="warning", server_header=False, http="h11", ws="none")


class _Server(uvicorn.Server):
    """Uvicorn's server, which ends with exit code 0 after SIGTERM or Ctrl-C instead of raising the signal once more."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {which: signal.signal(which, self.handle_exit) for which in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for which, handler in before.items():
                signal.signal(which, handler)


def _listen(host: str, port: int) -> socket.socket:
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {host}:{port} ({error.strerror}): choose another host or port") from error
    listening.set_inheritable(True)
    return listening


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device={name}: no such device; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={name}: this machine has no CUDA device; use device=cpu")
    return device
