"""Dependencies, lock, package data, layers: what a fresh clone relies on."""

import ast
import fnmatch
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import nemo_desta

ROOT = Path(__file__).resolve().parent.parent
# A layer may import itself and what stands before it.
LAYERS = (
    ("assets", "cli", "config", "jsonl", "locking", "processes", "provenance"),
    ("corpora", "seed"),
    ("manifests",),
    ("checkpoint",),
    ("modules", "backbones", "data", "parallel"),
    ("models",),
    ("generation", "evaluation", "export", "serving"),
    ("study",),
)
# Engines that live in environments of their own; code that imports them runs only there.
ENGINES = {"tensorrt_llm", "triton_python_backend_utils"}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def lock() -> dict[str, Version]:
    """Name -> version of requirements.lock; every line is a pin and nothing else."""
    pins = {}
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        requirement = Requirement(line)
        (specifier,) = requirement.specifier
        assert specifier.operator == "==" and requirement.url is None, line
        pins[canonicalize_name(requirement.name)] = Version(specifier.version)
    return pins


def make_variable(name: str) -> str:
    match = re.search(rf"^{name} :?\??= ?(.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert match is not None, name
    return match[1].strip()


def locked_requirements(project: dict[str, Any]) -> list[Requirement]:
    extras = project["project"]["optional-dependencies"]
    lines = [*project["project"]["dependencies"], *(line for extra in make_variable("LOCK_EXTRAS").split(",") for line in extras[extra])]
    return [Requirement(line) for line in lines]


def test_lock_satisfies_every_direct_dependency(project: dict[str, Any], lock: dict[str, Version]) -> None:
    for requirement in locked_requirements(project):
        version = lock[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} is locked at {version}: make lock"


def test_direct_dependencies_have_an_upper_bound(project: dict[str, Any]) -> None:
    for requirement in locked_requirements(project):
        assert any(specifier.operator in ("<", "==", "~=") for specifier in requirement.specifier), requirement


def test_lock_serves_any_machine(lock: dict[str, Version]) -> None:
    assert str(lock["torch"]) == "2.13.0" == make_variable("LOCK_TORCH")
    assert not [name for name in lock if name.startswith(("nvidia-", "triton"))], "CUDA libraries come with the machine's torch, not with the lock"
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert not re.search(r"://|file:|\.whl|^-|@", text, re.MULTILINE)


def test_what_is_installed_without_dependencies_is_declared(project: dict[str, Any]) -> None:
    extra = [Requirement(line) for line in project["project"]["optional-dependencies"]["music"]]
    pinned = [Requirement(pin) for pin in make_variable("NO_DEPS").split()]
    assert {requirement.name for requirement in extra} == {requirement.name for requirement in pinned}
    for declared, pin in zip(extra, pinned, strict=True):
        assert declared.specifier.contains(next(iter(pin.specifier)).version)


def test_extras(project: dict[str, Any]) -> None:
    assert {"dev", "gpu", "serve", "export", "lora"} <= set(project["project"]["optional-dependencies"])


def test_this_python_and_version(project: dict[str, Any]) -> None:
    requires = Requirement(f"python{project['project']['requires-python']}").specifier
    assert requires.contains(".".join(map(str, sys.version_info[:3])))
    assert metadata.version("nemo_desta") == nemo_desta.__version__, "make install"


def test_every_data_file_is_packaged(project: dict[str, Any]) -> None:
    package = ROOT / "nemo_desta"
    patterns = [pattern.removeprefix("**/") for pattern in project["tool"]["setuptools"]["package-data"]["nemo_desta"]]
    data = [path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc") and "__pycache__" not in path.parts]
    assert data
    left_out = [path.relative_to(ROOT) for path in data if not any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns)]
    assert not left_out, f"not in [tool.setuptools.package-data]: {left_out}"
    recipes = {path for patterns in project["tool"]["setuptools"]["data-files"].values() for pattern in patterns for path in ROOT.glob(pattern)}
    assert recipes == set((ROOT / "conf").rglob("*.yaml")) and recipes


def python_files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def imported_modules(path: Path) -> set[str]:
    """Absolute names that a file imports, at whatever depth."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_every_import_is_a_declared_dependency(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"].values()
    declared = {canonicalize_name(Requirement(line).name) for lines in (project["project"]["dependencies"], *extras) for line in lines}
    distributions = metadata.packages_distributions()
    ours = {"nemo_desta", "tools", "tests", "examples"}
    undeclared = {}
    for path in python_files("nemo_desta", "tools", "examples"):
        for module in {name.partition(".")[0] for name in imported_modules(path)} - set(sys.stdlib_module_names) - ours - ENGINES:
            providers = {canonicalize_name(name) for name in distributions.get(module, [module])}
            if not providers & declared:
                undeclared[str(path.relative_to(ROOT))] = module
    assert not undeclared, f"not in pyproject.toml: {undeclared}"


def layer_of(module: str) -> int | None:
    part = [*module.split("."), ""][1]
    return next((number for number, names in enumerate(LAYERS) if part in names), None)


def test_imports_point_downwards() -> None:
    wrong = []
    for path in python_files("nemo_desta"):
        own = layer_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for module in imported_modules(path):
            if own is None or not module.startswith("nemo_desta."):
                continue
            other = layer_of(module)
            if other is not None and other > own:
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    assert not wrong, wrong


def test_every_package_is_in_a_layer() -> None:
    parts = {path.parent.name for path in (ROOT / "nemo_desta").glob("*/__init__.py")}
    assert parts <= {name for layer in LAYERS for name in layer}, "name the new package in LAYERS and in docs/architecture.md"


def test_importing_the_library_does_not_import_nemo() -> None:
    # NeMo takes 15-20 seconds; whoever needs it imports it where it is used.
    packages = sorted(f"nemo_desta.{path.parent.name}" for path in (ROOT / "nemo_desta").glob("*/__init__.py"))
    code = f"import sys, importlib\nfor name in {packages!r}: importlib.import_module(name)\nassert 'nemo' not in sys.modules, 'nemo was imported'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_modules_stay_readable() -> None:
    long = {str(path.relative_to(ROOT)): n for path in python_files("nemo_desta", "tools") if (n := len(path.read_text("utf-8").splitlines())) > 400}
    assert not long, f"over 400 lines: {long}"


def test_a_wrong_interpreter_is_a_sentence(tmp_path: Path) -> None:
    done = subprocess.run(["make", "install", f"VENV={tmp_path / 'v'}", "PYTHON=/bin/false"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "PYTHON=/bin/false is not Python 3.11 or 3.12" in done.stderr


def test_no_interpreter_is_a_sentence_with_a_remedy(tmp_path: Path) -> None:
    for tool in ("bash", "make"):
        (tmp_path / tool).symlink_to(Path("/usr/bin") / tool)
    environment = {**os.environ, "PATH": str(tmp_path)}
    command = [str(tmp_path / "make"), "install", f"VENV={tmp_path / 'v'}", "PYTHON="]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode != 0 and "Python 3.11 or 3.12 with the venv module is needed" in done.stderr and "apt-get install" in done.stderr


def test_ci_script_is_executable_and_parses() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    targets = set(re.findall(r"make ([a-z-]+)", script.read_text(encoding="utf-8")))
    defined = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {"install", "lint", "test", "demo-ci"} <= targets <= defined


WRITTEN = [".venv/bin/python", "runs/mini/stages.json", "nemo_experiments/x", "lightning_logs/version_0/y", "a.egg-info/z", "x/__pycache__/m.pyc"]


@pytest.mark.parametrize("path", WRITTEN)
def test_what_a_run_writes_is_ignored_by_git(path: str) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    assert subprocess.run(["git", "check-ignore", "--no-index", "-q", path], cwd=ROOT, check=False).returncode == 0


def test_licence_is_apache(project: dict[str, Any]) -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert project["project"]["license"] == "Apache-2.0" and "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text
