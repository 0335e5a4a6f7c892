"""The commands of docs/deploy.md and docs/serving.md exist: programs, options, keys of the configuration, targets of make, extras."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from nemo_desta.export.settings import typed_export
from nemo_desta.serving.settings import typed_serve

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["deploy.md", "serving.md", "benchmarks/export.md", "benchmarks/serving.md"]


def text_of(page: str) -> str:
    return (ROOT / "docs" / page).read_text(encoding="utf-8").replace("\\\n", " ")


def commands(page: str, program: str) -> list[list[str]]:
    """Arguments of every call of a program, in code blocks and in the text."""
    lines = [line for block in re.findall(r"```\w*\n(.*?)```", text_of(page), re.DOTALL) for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL))
    return [shlex.split(line.split(" #")[0].split(" &")[0])[2:] for line in lines if re.match(rf"python3? {program}\b", line)]


@pytest.mark.parametrize("page", PAGES)
def test_everything_named_is_there(page):
    text = text_of(page)
    for path in set(re.findall(r"\b((?:tools|examples|nemo_desta|tests|docs)/[\w/]+\.\w+)", text)):
        assert (ROOT / path).exists(), f"{page} names {path}"
    for link in set(re.findall(r"\]\(([\w./]+\.md)\)", text)):
        assert (ROOT / "docs" / page).parent.joinpath(link).exists(), f"{page} links {link}"
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`make ([\w-]+)", text)):
        assert f"\n{target}:" in makefile, f"{page} names make {target}"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for extra in set(re.findall(r"(?:nemo_desta|-e '?\.)\[(\w+)\]", text)):
        assert extra in extras, f"{page} names the extra {extra}"


@pytest.mark.parametrize("page", PAGES)
def test_configurations_take_every_setting(page):
    for program, name, typed in (("examples/export_trtllm.py", "export", typed_export), ("examples/serve.py", "serve", typed_serve)):
        for arguments in commands(page, program):
            given = [argument for argument in arguments if not argument.startswith("--config-name")]
            assert all("=" in argument for argument in given), given
            with initialize_config_dir(str(ROOT / "conf"), version_base=None):
                typed(compose(name, overrides=[re.sub(r"=\.\.\.$", "=x", argument) for argument in given]))


@pytest.mark.parametrize("program", ["tools/verify_bundle.py", "tools/bench_serving.py"])
def test_tools_take_every_option(program):
    called = [command for page in PAGES for command in commands(page, program)]
    shown = {word for command in called for word in command if word.startswith("--")}
    known = subprocess.run([sys.executable, str(ROOT / program), "--help"], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert called and not {word for word in shown if word not in known}


def test_the_pages_name_every_target_and_every_setting_they_speak_of():
    deploy = text_of("deploy.md")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    shipped = re.search(r"demo-export:.*?'(targets=\[[\w,]+\])'", makefile, re.DOTALL)
    assert shipped is not None
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        cfg = typed_export(compose("export", overrides=["checkpoint=a", "output=b", shipped[1]]))
    assert all(f"`{target}`" in deploy for target in cfg.targets)
