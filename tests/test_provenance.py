"""The manifest beside every result."""

import dataclasses
import enum
import hashlib
import json
import os
import subprocess
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from nemo_desta import provenance
from nemo_desta.config import ModelConfig


class Colour(str, enum.Enum):
    red = "red"


def git(directory: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    subprocess.run(["git", *identity, *arguments], cwd=directory, check=True, capture_output=True)


def test_manifest_is_json_and_tells_where_the_result_comes_from(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_bytes(b"{}\n")
    config = OmegaConf.structured(ModelConfig(llm="hf://a/b", encoder="hf://c/d"))
    result = provenance.manifest(config, {"rows": source, "none": tmp_path / "no"}, counts={"ok": 3})
    again = json.loads(json.dumps(result))
    assert again == result
    assert result["config"]["llm"] == "hf://a/b" and result["config"]["pad_to"] == "longest"
    assert result["inputs"] == {"rows": {"sha256": hashlib.sha256(b"{}\n").hexdigest(), "bytes": 3, "files": 1}, "none": {"missing": True}}
    assert result["versions"]["torch"].startswith("2.") and result["counts"] == {"ok": 3}
    assert result["host"]["cores"] == os.cpu_count() and result["time"].endswith("+00:00")


def test_a_directory_is_fingerprinted_by_names_and_contents(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "one").write_text("1")
        (tmp_path / name / "two").write_text("22")
    first = provenance.fingerprint(tmp_path / "a")
    assert first == provenance.fingerprint(tmp_path / "b") and first["bytes"] == 3 and first["files"] == 2
    (tmp_path / "b" / "two").rename(tmp_path / "b" / "three")
    assert provenance.fingerprint(tmp_path / "b")["sha256"] != first["sha256"]
    (tmp_path / "a" / "two").write_text("23")
    assert provenance.fingerprint(tmp_path / "a")["sha256"] != first["sha256"]


def test_sha256_of_a_file_longer_than_a_piece(tmp_path: Path) -> None:
    data = os.urandom(provenance.CHUNK_BYTES * 2 + 17)
    (tmp_path / "big").write_bytes(data)
    assert provenance.sha256_file(tmp_path / "big") == hashlib.sha256(data).hexdigest()


def test_revision_and_dirty_flag_of_a_checkout(tmp_path: Path) -> None:
    assert provenance.code_revision(tmp_path) == {"revision": None, "dirty": None}
    git(tmp_path, "init", "-q")
    (tmp_path / "f").write_text("1")
    git(tmp_path, "add", "f")
    git(tmp_path, "commit", "-q", "-m", "one")
    clean = provenance.code_revision(tmp_path)
    assert len(clean["revision"]) == 40 and clean["dirty"] is False
    (tmp_path / "f").write_text("2")
    assert provenance.code_revision(tmp_path) == {"revision": clean["revision"], "dirty": True}


def test_no_git_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.code_revision() == {"revision": None, "dirty": None}


def test_library_versions_name_what_is_missing() -> None:
    assert provenance.library_versions(["torch", "no-such-library-here"]) == {"torch": metadata.version("torch"), "no-such-library-here": None}


def test_plain_turns_every_kind_into_json() -> None:
    @dataclasses.dataclass
    class Point:
        x: np.float32
        where: Path

    value = {"p": Point(np.float32(1.5), Path("a") / "b"), Colour.red: (np.arange(2), torch.tensor(3)), "s": {"b", "a"}, 4: None}
    assert provenance.plain(value) == {"p": {"x": 1.5, "where": "a/b"}, "red": [[0, 1], 3], "s": ["a", "b"], "4": None}
    with pytest.raises(TypeError, match="object"):
        provenance.plain({"x": object()})


def test_write_is_atomic_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    target = tmp_path / "new" / "m.json"
    provenance.write_json_atomic(target, {"text": "é", "path": Path("x")})
    assert json.loads(target.read_text(encoding="utf-8")) == {"text": "é", "path": "x"}
    with pytest.raises(TypeError):
        provenance.write_json_atomic(target, {"x": object()})
    assert json.loads(target.read_text(encoding="utf-8"))["text"] == "é"
    assert [path.name for path in target.parent.iterdir()] == ["m.json"]


def test_a_full_disk_is_a_sentence_and_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "m.json"
    provenance.write_json_atomic(target, {"a": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*m\.json \(No space left on device\): make room") as caught:
        provenance.write_json_atomic(target, {"a": 2})
    assert caught.value.errno == 28
    assert json.loads(target.read_text()) == {"a": 1} and [path.name for path in tmp_path.iterdir()] == ["m.json"]


def test_a_file_where_a_directory_should_be(tmp_path: Path) -> None:
    (tmp_path / "d").write_text("")
    with pytest.raises(OSError, match="cannot write"):
        provenance.write_json_atomic(tmp_path / "d" / "m.json", {})
