"""tools/validate_on_gpu.sh with stand-ins for the GPU's tools: what it refuses, what it leaves out, and the rows it writes."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "validate_on_gpu.sh"
NVIDIA_SMI = """#!/bin/bash
case "$*" in -L) echo "GPU 0: Card";; *noheader*) echo "Card 9000";; *) printf 'name, driver\\nCard 9000, 1\\n';; esac
"""
# The interpreter: no optional package is installed; the checks say what the test wants.
PYTHON = """#!/bin/bash
case "$1" in
  -c) exit 1;;
  -) cat > /dev/null; printf 'torch 2.13.0\\ntensorrt is not installed\\n';;
  *) printf 'ok           NumPy features: largest difference 1e-05\\nnot checked  engines: none\\n%s\\n' "$SAY"; exit "$CODE";;
esac
"""


@pytest.fixture
def machine(tmp_path):
    """(environment, bundle) of a machine with a card and no engine's packages."""
    (tmp_path / "bin").mkdir()
    for name, text in {"nvidia-smi": NVIDIA_SMI, "interpreter": PYTHON}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    bundle = tmp_path / "a bundle"
    (bundle / "audio").mkdir(parents=True)
    (bundle / "manifest.json").write_text("{}")
    path = f"{tmp_path / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin"
    return {"PATH": path, "PYTHON": str(tmp_path / "bin" / "interpreter"), "SAY": "ok           tower, CUDA: relative 1e-04", "CODE": "0"}, bundle


def run(environment, *arguments):
    return subprocess.run(["bash", str(SCRIPT), *map(str, arguments)], env=environment, capture_output=True, text=True, check=False)


def test_rows_for_the_table_and_what_was_left_out(machine):
    environment, bundle = machine
    done = run(environment, bundle)
    assert done.returncode == 0, done.stderr
    rows = (bundle / "gpu_validation" / "table.md").read_text().splitlines()
    assert len(rows) == 2 and rows[1].startswith("| tower, CUDA: relative 1e-04 | ok | Card 9000 | 20") and rows[1].endswith(" | torch 2.13.0 |")
    for what in ("TensorRT audio engine: neither", "TensorRT-RTX engines", "onnxruntime-gpu is not installed", "has no llm/trtllm_ckpt"):
        assert what in done.stdout
    for part, program in (("trtllm_pytorch", "trtllm-serve"), ("triton", "tritonserver")):
        assert program not in done.stdout
        (bundle / part).mkdir()
        assert f"start {program} by hand" in run(environment, bundle).stdout
    failed = run(environment | {"SAY": "FAILED       tower, CUDA: relative 1", "CODE": "1"}, bundle)
    assert failed.returncode == 1 and "| FAILED |" in (bundle / "gpu_validation" / "table.md").read_text()


def test_no_gpu_and_no_bundle_are_said(machine, tmp_path):
    environment, bundle = machine
    assert run(environment).returncode == run(environment, tmp_path / "nowhere").returncode == 2
    assert "no manifest.json" in run(environment, tmp_path).stderr
    (tmp_path / "bin" / "nvidia-smi").write_text("#!/bin/bash\nexit 9\n")
    done = run(environment, bundle)
    assert done.returncode == 2 and "no NVIDIA GPU" in done.stderr and not (bundle / "gpu_validation").exists()


def test_help_and_a_dry_run_need_no_gpu_and_write_nothing(machine, tmp_path):
    environment, bundle = machine
    (tmp_path / "bin" / "nvidia-smi").unlink()
    told = run(environment, "--help")
    assert told.returncode == 0 and "--dry-run BUNDLE" in told.stdout and "Exit code 0" in told.stdout and "set -uo" not in told.stdout
    unknown = run(environment, "--dry", bundle)
    assert unknown.returncode == 2 and "no option --dry" in unknown.stderr
    before = sorted(bundle.rglob("*"))
    (bundle / "llm" / "trtllm_ckpt").mkdir(parents=True)
    (tmp_path / "bin" / "trtllm-build").write_text("#!/bin/bash\nexit 9\n")
    (tmp_path / "bin" / "trtllm-build").chmod(0o755)
    plan = run(environment, "--dry-run", bundle)
    assert plan.returncode == 0 and plan.stderr == "" and sorted(bundle.rglob("*")) == sorted([*before, bundle / "llm", bundle / "llm" / "trtllm_ckpt"])
    for what in ("none here", "would be built with trtllm-build", "neither trtexec nor", "onnxruntime-gpu is not installed", "the bundle has none"):
        assert what in plan.stdout
    assert run(environment, "--dry-run", tmp_path).returncode == 2
