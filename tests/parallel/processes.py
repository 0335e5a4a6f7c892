"""Several processes of one test. They are forked from a server that has imported the libraries once: importing takes longer than most tests."""

import multiprocessing
import os
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.multiprocessing as mp
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tests.conftest import REPOSITORY

LIBRARIES = [
    "tools.check_parallel",
    "nemo_desta.backbones.megatron",
    "nemo_desta.models.parallel_steps",
    "nemo.utils.exp_manager",
    "tests.parallel.train_child",
]


def _server() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    return context


def run_processes(worker: Callable[..., None], args: tuple[Any, ...], processes: int, *, minutes: float = 20) -> None:
    """Call ``worker(rank, *args)`` in each of them, and wait for all; what one raises is raised here.

    Raises:
        AssertionError: they do not end in time.
    """
    _server()
    context = mp.start_processes(worker, args=args, nprocs=processes, join=False, start_method="forkserver")
    deadline = time.monotonic() + 60 * minutes
    while not context.join(timeout=5):  # True once all have ended
        assert time.monotonic() < deadline, "the processes hang"


def run_program(main: Callable[..., None], args: tuple[str, ...], processes: int, *, minutes: float = 20) -> "subprocess.CompletedProcess[str]":
    """``main(*args)`` as a program of its own, its exit code and what it wrote. Several processes are started, watched and ended by the agent of torchrun.

    Raises:
        AssertionError: it does not end in time.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        program = _server().Process(target=_program, args=(main, args, processes, str(out), str(err)))
        program.start()
        program.join(60 * minutes)
        if program.exitcode is None:
            os.killpg(program.pid, signal.SIGKILL)
        assert program.exitcode is not None, f"the program hangs: {err.read_text()[-2000:]}"
        return subprocess.CompletedProcess([main.__module__, *args], program.exitcode, out.read_text(), err.read_text())


def _program(main: Callable[..., None], args: tuple[str, ...], processes: int, out: str, err: str) -> None:
    os.setsid()
    os.chdir(REPOSITORY)
    for descriptor, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    if processes == 1:
        return main(*args)
    # What `torchrun --standalone` asks for, but for the way its workers come into being.
    agent = LaunchConfig(1, 1, processes, run_id=str(uuid.uuid4()), rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0, start_method="fork")
    try:
        elastic_launch(agent, main)(*args)
    except ChildFailedError as error:
        raise SystemExit(1) from error
