"""Our own reader of Debian packages against dpkg's, and damaged archives."""

import shutil
import subprocess
from pathlib import Path

import pytest

from nemo_desta.assets import AssetError, Kind
from nemo_desta.assets.unpack import unpack
from tests.assets.conftest import deb_bytes, pinned, tar_bytes


@pytest.mark.parametrize("compression", ["xz", "gz", "zst"])
@pytest.mark.parametrize("size", [0, 1, 100_001])  # odd sizes need the ar format's padding
def test_deb(tmp_path: Path, size: int, compression: str) -> None:
    files = {"./usr/share/x/a.bin": bytes(range(256)) * (size // 256) + b"z" * (size % 256), "./usr/share/doc/x/copyright": b"CC0"}
    content = deb_bytes(files, compression)
    (tmp_path / "x.deb").write_bytes(content)
    unpack(pinned("x", Kind.debian, "x_1.0_all.deb", content), tmp_path / "x.deb", tmp_path / "ours")
    assert {f"./{path.relative_to(tmp_path / 'ours')}": path.read_bytes() for path in (tmp_path / "ours").rglob("*") if path.is_file()} == files
    if shutil.which("dpkg"):
        subprocess.run(["dpkg", "-x", tmp_path / "x.deb", tmp_path / "theirs"], check=True)
        assert subprocess.run(["diff", "-r", tmp_path / "ours", tmp_path / "theirs"], check=False).returncode == 0


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("content", [b"", b"not an archive at all", deb_bytes({"./a": b"a" * 5000})[:300]])
def test_damaged(tmp_path: Path, kind: Kind, content: bytes) -> None:
    path = tmp_path / "archive"
    path.write_bytes(content)
    with pytest.raises(AssetError, match="fetch"):
        unpack(pinned("x", kind, "x-1.0", content), path, tmp_path / "out")


def test_tarball_cannot_escape(tmp_path: Path) -> None:
    content = tar_bytes({"../escaped": b"x"}, "w:gz")
    (tmp_path / "x.tgz").write_bytes(content)
    with pytest.raises(AssetError):
        unpack(pinned("x", Kind.sdist, "x-1.0.tar.gz", content), tmp_path / "x.tgz", tmp_path / "out")
    assert not (tmp_path / "escaped").exists()
