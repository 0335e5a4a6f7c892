"""The GPU image cannot be built on a CPU machine: what it copies, installs and runs is checked against the repository instead."""

import fnmatch
import re
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
KNOWN = {"FROM", "ARG", "ENV", "RUN", "COPY", "WORKDIR", "USER", "VOLUME", "CMD", "ENTRYPOINT", "LABEL", "EXPOSE", "SHELL"}


@dataclass(frozen=True)
class Instruction:
    """One instruction: its keyword and what follows, continuation lines joined."""

    keyword: str
    value: str


def parse(text: str) -> list[Instruction]:
    """Instructions of a Dockerfile; comment and empty lines are dropped, also between continuation lines.

    Raises:
        ValueError: an unknown keyword, or a file that ends inside a continued line.
    """
    instructions, pending = [], ""
    for line in text.splitlines():
        if line.lstrip().startswith("#") or (pending and not line.strip()):
            continue
        if line.rstrip().endswith("\\"):
            pending += line.rstrip()[:-1] + "\n"
            continue
        whole, pending = (pending + line).strip(), ""
        if not whole:
            continue
        keyword, _, value = whole.partition(" ")
        if keyword.upper() not in KNOWN:
            raise ValueError(f"unknown instruction {keyword!r}")
        instructions.append(Instruction(keyword.upper(), value.strip()))
    if pending:
        raise ValueError("the last line is continued")
    return instructions


@pytest.fixture(scope="module")
def instructions() -> list[Instruction]:
    return parse((ROOT / "Dockerfile").read_text(encoding="utf-8"))


def values(instructions: list[Instruction], keyword: str) -> list[str]:
    return [instruction.value for instruction in instructions if instruction.keyword == keyword]


def copied(instructions: list[Instruction]) -> dict[str, str]:
    """Source -> target of every COPY."""
    pairs = {}
    for value in values(instructions, "COPY"):
        *sources, target = [word for word in value.split() if not word.startswith("--")]
        pairs.update(dict.fromkeys(sources, target))
    return pairs


def excluded(path: str) -> bool:
    """Whether .dockerignore keeps a path of the repository out; the last matching line decides, a matching parent counts."""
    result = False
    parts = path.split("/")
    parents = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.lstrip("!").removeprefix("**/")
        names = parents if "**/" not in line else parts
        if any(fnmatch.fnmatch(name, pattern) for name in names):
            result = not line.startswith("!")
    return result


def test_the_parser_joins_lines_and_refuses_nonsense() -> None:
    assert parse("# c\nFROM a\nRUN x \\\n# between\n  && y\n\nUSER u") == [Instruction("FROM", "a"), Instruction("RUN", "x \n  && y"), Instruction("USER", "u")]
    with pytest.raises(ValueError, match="FORM"):
        parse("FORM a")
    with pytest.raises(ValueError, match="continued"):
        parse("RUN x \\")


def test_base_image_is_a_pinned_cuda_pytorch(instructions: list[Instruction]) -> None:
    arguments = dict(value.split("=", 1) for value in values(instructions, "ARG"))
    assert values(instructions, "FROM") == ["${BASE_IMAGE}"]
    assert re.fullmatch(r"nvcr\.io/nvidia/pytorch:\d\d\.\d\d-py3", arguments["BASE_IMAGE"])
    used = set(re.findall(r"\$\{([A-Z_]+)\}", "\n".join(instruction.value for instruction in instructions)))
    assert used <= set(arguments), "every ${NAME} is an ARG with a default"


def test_everything_copied_exists_and_is_sent_to_the_builder(instructions: list[Instruction]) -> None:
    pairs = copied(instructions)
    assert {"pyproject.toml", "requirements.lock", "nemo_desta", "conf", "examples", "tools"} <= set(pairs)
    for source in pairs:
        assert (ROOT / source).exists(), source
        assert not excluded(source), f".dockerignore leaves out {source}"
    for path in (".venv/bin/python", "runs/mini/x", ".git/config", "nemo_desta/__pycache__/a.pyc", "tests/test_dockerfile.py"):
        assert excluded(path), path
    assert not excluded("nemo_desta/models/desta.py") and not excluded("conf/desta25.yaml")


def test_the_package_can_be_built_from_what_is_copied(instructions: list[Instruction]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {project["readme"], *project["license-files"], "pyproject.toml"} <= set(copied(instructions))
    order = [instruction for instruction in instructions if instruction.keyword in ("COPY", "RUN")]
    package = next(n for n, i in enumerate(order) if i.keyword == "COPY" and i.value.startswith("nemo_desta "))
    install = next(n for n, i in enumerate(order) if i.keyword == "RUN" and " -e " in i.value)
    assert package < install


def test_extras_exist_and_cover_production(instructions: list[Instruction]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    installed = {name for value in values(instructions, "RUN") for group in re.findall(r'"\.\[([a-z,]+)\]"', value) for name in group.split(",")}
    assert {"gpu", "serve", "export"} <= installed <= set(extras)


def test_apex_transformer_engine_and_tensorrt_llm_are_installed(instructions: list[Instruction]) -> None:
    text = "\n".join(values(instructions, "RUN"))
    assert "apex @ git+https://github.com/NVIDIA/apex" in text and "import transformer_engine.pytorch" in text
    arguments = dict(value.split("=", 1) for value in values(instructions, "ARG"))
    # Later releases have no engine flow.
    assert Requirement("tensorrt_llm<=1.2.1,>=1.2").specifier.contains(arguments["TENSORRT_LLM_VERSION"])
    assert '"tensorrt_llm==${TENSORRT_LLM_VERSION}"' in text


def test_versions_agree_with_the_makefile_and_the_lock(instructions: list[Instruction]) -> None:
    text = "\n".join(values(instructions, "RUN"))
    pin = re.search(r"^NO_DEPS := (\S+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert pin is not None and f"--no-deps {pin[1]}" in text
    assert "grep -v '^torch==' requirements.lock" in text, "the base's own torch stays"
    assert re.search(r"^torch==", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE)


def test_the_base_satisfies_the_package(instructions: list[Instruction]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    comment = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    torch_version, python_version = re.search(r"PyTorch ([\d.]+)", comment), re.search(r"Python ([\d.]+\d)", comment)
    assert torch_version is not None and python_version is not None
    (torch,) = [requirement for line in project["dependencies"] if (requirement := Requirement(line)).name == "torch"]
    assert torch.specifier.contains(f"{torch_version[1]}.0a0+nv", prereleases=True)
    assert Requirement(f"python{project['requires-python']}").specifier.contains(python_version[1])


def test_it_does_not_run_as_root(instructions: list[Instruction]) -> None:
    keywords = [instruction.keyword for instruction in instructions]
    (user,) = values(instructions, "USER")
    assert user not in ("root", "0") and f"useradd --create-home --shell /bin/bash {user}" in "\n".join(values(instructions, "RUN"))
    assert "RUN" not in keywords[keywords.index("USER") :]


def test_commands_name_files_that_are_in_the_image(instructions: list[Instruction]) -> None:
    folders = set(copied(instructions))
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    scripts = set(re.findall(r"\b(?:examples|tools)/\w+\.py", text))
    assert scripts and all((ROOT / script).is_file() and script.split("/")[0] in folders for script in scripts)
    for recipe in re.findall(r"--config-name=(\w+)", text):
        assert (ROOT / "conf" / f"{recipe}.yaml").is_file()


def test_shell_commands_parse(instructions: list[Instruction]) -> None:
    for value in values(instructions, "RUN"):
        command = value.replace("\n", " \\\n")
        done = subprocess.run(["bash", "-n"], input=command, text=True, capture_output=True, check=False)
        assert done.returncode == 0, f"{value}\n{done.stderr}"
