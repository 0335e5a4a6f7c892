"""A generation run in a process of its own that kills itself with SIGKILL. Arguments: run directory, LLM, batch to die at, "answering" or "writing"."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from nemo_desta.generation import journal, runner
from nemo_desta.generation.engines.base import Completion
from nemo_desta.generation.engines.transformers import TransformersEngine
from tests.generation.clips import config


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    root, llm, batch, when = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
    torch.set_num_threads(1)
    calls = {"answering": 0, "writing": 0}
    generate, write_all = TransformersEngine.generate, journal._write_all

    def dying_generate(self: TransformersEngine, prompts: Sequence[str], keys: Sequence[str]) -> list[Completion]:
        calls["answering"] += 1
        if when == "answering" and calls["answering"] == batch:
            die()
        return generate(self, prompts, keys)

    def dying_write(descriptor: int, data: bytes) -> None:
        calls["writing"] += 1
        if when == "writing" and calls["writing"] == batch:
            write_all(descriptor, data[: 2 * len(data) // 3 + 7])  # whole lines of the batch, and a torn one
            die()
        write_all(descriptor, data)

    TransformersEngine.generate = dying_generate  # type: ignore[method-assign]
    journal._write_all = dying_write
    runner.generate_targets(config(root, llm, drop_rejected=False))


if __name__ == "__main__":
    main()
