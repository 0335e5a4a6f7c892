"""What the documentation tells a person to type or to open exists."""

import re
import shlex
from pathlib import Path

import pytest

from tools import demo

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def fenced(text: str) -> list[tuple[str, str]]:
    """(language, content) of the code blocks of a page."""
    return re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """Shell commands of a page: lines of code blocks and inline code that start with a program we know."""
    blocks = [block.replace("\\\n", " ") for language, block in fenced(text) if language in ("", "sh", "bash")]
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in [*lines, *re.findall(r"`([^`\n]+)`", text)] if re.match(r"(make|python|bash)\s", line)]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def check_command(command: str) -> str | None:
    """What is wrong with a command, None where all it names exists."""
    program, *words = shlex.split(command.replace("<", "").replace(">", ""))
    if program == "make":
        targets = [word for word in words if "=" not in word]
        return None if set(targets) <= make_targets() else f"no make target {targets}"
    if words[0] in ("-c", "-m"):
        return None
    if not (ROOT / words[0]).is_file():
        return f"there is no {words[0]}"
    recipes = [word.split("=", 1)[1] for word in words if word.startswith("--config-name=")]
    if relative(ROOT / words[0]) == "tools/demo.py":
        recipes += [words[1]]
    missing = [name for name in recipes if not (ROOT / "conf" / f"{name}.yaml").is_file()]
    return f"there is no recipe {missing}" if missing else None


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_commands_name_what_exists(page: Path) -> None:
    wrong = {command: problem for command in commands(page.read_text(encoding="utf-8")) if (problem := check_command(command))}
    assert not wrong


def test_the_checker_finds_mistakes() -> None:
    assert check_command("make no-such-target") and check_command("python examples/nothing.py") and check_command("python tools/demo.py nothing")
    assert commands("```\nmake demo\n```\n`bash .ci/run` `git x`") == ["make demo", "bash .ci/run"]


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"https?://", link)]
    missing = [link for link in links if not (page.parent / link.split("#")[0]).exists()]
    assert not missing


def test_the_file_tour_is_complete() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tour = text[text.index("## File tour") : text.index("## Why not SALM?")]
    rows = [cell for row in re.findall(r"^\| (`[^|]+) \|", tour, re.MULTILINE) for cell in re.findall(r"`([^`]+)/`", row)]
    folders = {name if (ROOT / name).is_dir() else f"nemo_desta/{name}" for name in rows}
    assert all((ROOT / folder).is_dir() for folder in folders), folders
    packages = {f"nemo_desta/{path.parent.name}" for path in (ROOT / "nemo_desta").glob("*/__init__.py")}
    assert packages <= folders, f"not in the tour: {packages - folders}"


def test_the_readme_says_what_it_must() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for needed in ("make demo", "make test", "## What you will see", "## Why not SALM?", "QformerConnector", "docs/mini.md", "runs/mini/report/report.html"):
        assert needed in text, needed
    config = demo.load_config("desta25_mini", [])
    assert config.run_dir == "runs/mini"


def test_the_stages_of_the_readme_are_those_of_the_demo() -> None:
    stages = demo.build_stages("desta25_mini", demo.load_config("desta25_mini", []), [])
    block = next(block for _, block in fenced((ROOT / "README.md").read_text(encoding="utf-8")) if "prepare_corpus" in block)
    assert block.split("\n")[:-1] == [" ".join(["python", *stage.command[1:]]) for stage in stages]


def test_python_examples_parse() -> None:
    blocks = [block for page in PAGES for language, block in fenced(page.read_text(encoding="utf-8")) if language == "python"]
    assert blocks
    for block in blocks:
        compile(block, "README", "exec")
