"""Several processes of one test. They are forked from a server that has imported the libraries once: importing takes longer than most tests."""

import multiprocessing
import time
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as mp

LIBRARIES = ["tools.check_parallel", "nemo_desta.backbones.megatron", "nemo_desta.models.parallel_steps"]


def run_processes(worker: Callable[..., None], args: tuple[Any, ...], processes: int, *, minutes: float = 20) -> None:
    """Call ``worker(rank, *args)`` in each of them, and wait for all; what one raises is raised here.

    Raises:
        AssertionError: they do not end in time.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(LIBRARIES)
    context = mp.start_processes(worker, args=args, nprocs=processes, join=False, start_method="forkserver")
    deadline = time.monotonic() + 60 * minutes
    while not context.join(timeout=5):  # True once all have ended
        assert time.monotonic() < deadline, "the processes hang"
