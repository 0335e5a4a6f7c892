"""The example programs end a user's mistake with a sentence, and what they share for that."""

import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.utils import run_and_report
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue
from safetensors import SafetensorError

from nemo_desta.assets import AssetError
from nemo_desta.cli import MISTAKE_FILE, mark_mistakes, say_errors
from tools import demo

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(name: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, f"examples/{name}.py", "--config-name=desta25_mini", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)


def test_training_without_targets_says_which_command_writes_them(tmp_path):
    done = run("train_desta", f"run_dir={tmp_path / 'run'}")
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("error: no training targets at") and "generate_targets.py" in last, done.stderr[-2000:]
    assert "Traceback" not in done.stderr


def test_an_unknown_key_is_named_also_when_it_is_forced_in(tmp_path):
    done = run("evaluate", f"run_dir={tmp_path / 'run'}", "+eval.nonsense=1")
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("error: ") and "nonsense" in last, done.stderr[-2000:]
    assert "Traceback" not in done.stderr


def test_a_run_dir_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    done = run("generate_targets", f"run_dir={tmp_path / 'file'}")
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("error: ") and str(tmp_path / "file") in last, done.stderr[-2000:]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_ends_in_the_shared_way(path):
    text = path.read_text(encoding="utf-8")
    assert "with say_errors(" in text and "except" not in text


def _not_given() -> Exception:
    try:
        OmegaConf.to_container(OmegaConf.create({"output": "???"}), throw_on_missing=True)
    except MissingMandatoryValue as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("error", "marked"), [(ValueError("optim.lr=-1"), True), (OSError(5, "Input/output error"), False), (RuntimeError("CUDA out of memory"), False)]
)
def test_what_the_same_command_would_repeat_is_left_for_the_scheduler(tmp_path, monkeypatch, error, marked):
    monkeypatch.setenv(MISTAKE_FILE, str(tmp_path / "mistake"))
    with pytest.raises(SystemExit), mark_mistakes(), say_errors("where it stopped"):
        raise error
    assert (tmp_path / "mistake").exists() is marked and (not marked or (tmp_path / "mistake").read_text() == "optim.lr=-1\n")


def test_a_key_that_hydra_refuses_is_left_for_the_scheduler_too(tmp_path, monkeypatch):
    def main() -> None:
        with initialize_config_dir(str(ROOT / "conf"), version_base=None):
            compose("desta25", overrides=["optim.nonsense=1"])

    monkeypatch.setenv(MISTAKE_FILE, str(tmp_path / "mistake"))
    with pytest.raises(SystemExit), mark_mistakes():
        run_and_report(main)
    assert "nonsense" in (tmp_path / "mistake").read_text()


SENTENCES = [
    (ValueError("two\n  lines"), "error: two lines"),
    (FileNotFoundError(2, "No such file or directory", "/data/x"), "error: No such file or directory: /data/x"),
    (OSError(28, "cannot write /data/y: make room"), "error: cannot write /data/y: make room"),
    (AssetError("fetch it"), "error: fetch it"),
    (SafetensorError("header too large"), "error: header too large"),
    (ConfigKeyError("Key 'x' is not in struct"), "error: Key 'x' is not in struct"),
    (_not_given(), "error: output is missing: add output=... to the command"),
    (RuntimeError("PytorchStreamWriter failed writing file data/0"), "make room or choose another run_dir"),
    (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "data.micro_batch_tokens"),
    (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"), "data.micro_batch_tokens"),
    (MemoryError(), "error: MemoryError -- a smaller batch"),
    (RuntimeError("[gloo/transport/tcp/pair.cc:551] Connection closed by peer [10.0.0.1]:9123"), "another process of the run has ended"),
    (RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1000ms for recv operation to complete"), "parallel.timeout_seconds"),
]


@pytest.mark.parametrize(("error", "said"), SENTENCES, ids=lambda value: type(value).__name__)
def test_what_the_user_or_the_machine_did_is_one_sentence(capsys, error, said):
    with pytest.raises(SystemExit) as end, say_errors("where it stopped"):
        raise error
    text = capsys.readouterr().err
    assert end.value.code == 1 and said in text and text.count("\n") == 1


def test_an_interruption_has_the_exit_code_of_ctrl_c(capsys):
    with pytest.raises(SystemExit) as end, say_errors("where it stopped"):
        raise KeyboardInterrupt
    assert end.value.code == 130 and capsys.readouterr().err == "interrupted: the same command goes on where it stopped\n"


@pytest.mark.parametrize("error", [AssertionError("x"), TypeError("x"), KeyError("x"), RuntimeError("shapes cannot be multiplied")])
def test_a_programming_error_keeps_its_traceback(error):
    with pytest.raises(type(error)), say_errors("where it stopped"):
        raise error


def test_the_demo_does_not_call_an_interrupted_stage_failed(tmp_path, monkeypatch, capsys):
    stage = demo.Stage("train", "what", (sys.executable, "-c", "raise SystemExit(130)"), "a remedy")
    assert demo.run_all([stage], tmp_path, "make demo") == 130
    said = capsys.readouterr().out
    assert "go on with:  make demo" in said and "failed" not in said and "a remedy" not in said
