"""Whole trainings in processes of their own, and what they leave behind."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from safetensors import safe_open

from tests.conftest import REPOSITORY
from tests.parallel.processes import run_program
from tests.parallel.train_child import train_run


def run(home: Path, root: Path, processes: int, **overrides) -> "subprocess.CompletedProcess[str]":
    """A training in ``root`` with the models of ``home``; more than one process is watched by torchrun's agent."""
    return run_program(train_run, _arguments(home, root, overrides), processes)


def torchrun(home: Path, root: Path, processes: int, **overrides) -> "subprocess.CompletedProcess[str]":
    """The same by the command that a user types: the libraries are imported by every process anew."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *launcher, "-m", "tests.parallel.train_child", *_arguments(home, root, overrides)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=1200, start_new_session=True, check=False)


def _arguments(home: Path, root: Path, overrides: dict) -> tuple[str, str, str]:
    return str(home), str(root), json.dumps({key.replace("__", "."): value for key, value in overrides.items()})


def losses(root: Path) -> dict[int, tuple[float, float]]:
    """Loss and gradient norm by step, the last word on each."""
    lines = (json.loads(line) for line in (root / "losses.jsonl").read_text().splitlines())
    return {line["step"]: (line["loss"], line["norm"]) for line in lines}


def replicas(root: Path, rank: int) -> dict[int, dict[str, str]]:
    """Digests of what a process held, by step."""
    lines = (json.loads(line) for line in (root / f"replica-{rank}.jsonl").read_text().splitlines())
    return {line["step"]: line for line in lines}


def checkpoint(root: Path, step: int) -> Path:
    return root / "train" / "checkpoints" / f"step={step}.ckpt"


def records(root: Path) -> dict[int, dict]:
    """What the validations of a run have written, by step."""
    lines = (json.loads(line) for line in (root / "train" / "validation" / "records.jsonl").read_text().splitlines())
    return {line["step"]: line for line in lines}


def tensors(folder: Path) -> dict[str, list[int]]:
    """Names and shapes in a checkpoint's weights."""
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  # not a mapping


def fresh_run(home: Path, root: Path, *, keep_training: bool = False) -> Path:
    """A run directory with the targets of another; with its checkpoints where asked for."""
    left = ["losses.jsonl", "replica-*", "taps", *([] if keep_training else ["train"])]
    shutil.copytree(home, root, ignore=shutil.ignore_patterns(*left))
    return root
