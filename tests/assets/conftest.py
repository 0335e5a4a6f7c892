"""A private cache for each test and tiny real packages to put into it."""

import base64
import hashlib
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from nemo_desta.assets import PACKAGES, Kind, Package


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory."""
    path = tmp_path / "cache"
    monkeypatch.setenv("NEMO_DESTA_CACHE", str(path))
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is all that pip knows: no network is used."""
    path = tmp_path / "index"
    path.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path))
    return path


def wheel_bytes(name: str, payload: bytes) -> bytes:
    """A valid wheel with one file, ``<name>/data.bin``."""
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}/data.bin": payload,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digest = {path: base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode() for path, content in files.items()}
    record = "".join(f"{path},sha256={digest[path]},{len(content)}\n" for path, content in files.items()) + f"{info}/RECORD,,\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, content in {**files, f"{info}/RECORD": record.encode()}.items():
            archive.writestr(path, content)
    return buffer.getvalue()


def tar_bytes(files: dict[str, bytes], mode: str) -> bytes:
    """A tar archive of files, compressed as `mode` says ("w:xz", "w:gz")."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def deb_bytes(files: dict[str, bytes], compression: str = "xz") -> bytes:
    """A Debian package (an ar archive) whose data.tar holds `files`."""
    data = zstandard.compress(tar_bytes(files, "w")) if compression == "zst" else tar_bytes(files, f"w:{compression}")
    members = {"debian-binary": b"2.0\n", "control.tar.xz": tar_bytes({"./control": b"Package: x\n"}, "w:xz"), f"data.tar.{compression}": data}
    result = b"!<arch>\n"
    for name, content in members.items():
        result += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode() + content + b"\n" * (len(content) % 2)
    return result


def pinned(name: str, kind: Kind, file: str, content: bytes) -> Package:
    """The catalogue's entry for a file with this content."""
    return Package(name, kind, name, "1.0", file, len(content), hashlib.sha256(content).hexdigest(), "CC0", "made by a test")


@pytest.fixture
def add_wheel(index: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Package]:
    """Put a tiny wheel into pip's index and pin it in the catalogue."""

    def add(name: str, payload: bytes = b"payload" * 1000) -> Package:
        content = wheel_bytes(name, payload)
        package = pinned(name, Kind.wheel, f"{name}-1.0-py3-none-any.whl", content)
        (index / package.file).write_bytes(content)
        monkeypatch.setitem(PACKAGES, name, package)
        return package

    return add
