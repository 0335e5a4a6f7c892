"""The bundle's directory: whole or not at all, and unchanged parts taken over."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from nemo_desta.export import bundle as module
from nemo_desta.export.bundle import changed_files, claimed, read_manifest, require_space, staged_bundle, unchanged_parts, write_manifest


def make(output, parts, made):
    """Write a bundle whose parts hold one file each: {name: (key, text)}."""
    with claimed(output), staged_bundle(output) as writer:
        for name, (key, text) in parts.items():

            def build(name=name, text=text):
                made.append(name)
                (writer.root / name).mkdir()
                (writer.root / name / "file").write_text(text)
                return {"note": text}

            writer.part(name, {"key": key}, build)
        write_manifest(writer.root, {"parts": writer.parts, "settings": {}})


def test_unchanged_parts_are_taken_over_and_changed_or_damaged_ones_made_again(tmp_path):
    output, made = tmp_path / "b", []
    make(output, {"a": (1, "one"), "b": (1, "two")}, made)
    make(output, {"a": (1, "ignored"), "b": (2, "new")}, made)
    assert made == ["a", "b", "b"]
    manifest = read_manifest(output)
    assert manifest["parts"]["a"]["reused"] and "reused" not in manifest["parts"]["b"] and manifest["parts"]["a"]["note"] == "one"
    assert (output / "a" / "file").read_text() == "one" and (output / "b" / "file").read_text() == "new"
    assert changed_files(output, manifest) == []
    (output / "a" / "file").write_text("tampered")
    assert changed_files(output, manifest) == ["a/file"]
    make(output, {"a": (1, "one")}, made)
    assert made[-1] == "a" and (output / "a" / "file").read_text() == "one" and not (output / "b").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b"]


def test_who_may_read_the_bundle_may_read_its_files(tmp_path):
    with staged_bundle(tmp_path / "b") as writer:
        for name in ("secret", "open"):
            writer.part(name, {}, lambda name=name: (writer.root / name).write_text("x") and {})
        (writer.root / "secret").chmod(0o600)
        writer.root.chmod(0o750)
        write_manifest(writer.root, {"parts": writer.parts, "settings": {}})
    assert (tmp_path / "b" / "secret").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("error", [ValueError("does not fit"), KeyboardInterrupt(), RuntimeError("x")])
def test_a_failed_export_leaves_no_half_bundle_and_keeps_the_older_one(tmp_path, error):
    output = tmp_path / "b"

    def fail():
        with staged_bundle(output) as writer:
            writer.part("a", {}, lambda: (writer.root / "half").write_text("x") and {})
            raise error

    with pytest.raises(type(error)):
        fail()
    assert list(tmp_path.iterdir()) == []
    make(output, {"a": (1, "one")}, [])
    with pytest.raises(type(error)):
        fail()
    assert (output / "a" / "file").read_text() == "one" and [p.name for p in tmp_path.iterdir()] == ["b"]


EXPORTER = """
import sys, time
from pathlib import Path
from nemo_desta.export.bundle import claimed, staged_bundle, write_manifest
output, how = Path(sys.argv[1]), sys.argv[2]
try:
    with claimed(output), staged_bundle(output) as writer:
        writer.part("a", {}, lambda: (writer.root / "a").write_text(how) and {})
        if how == "long":
            print("at work", flush=True)
            sys.stdin.readline()
        write_manifest(writer.root, {"parts": writer.parts, "settings": {}})
except ValueError as error:
    sys.exit(str(error))
"""


def exporter(output, how):
    """A process that writes a bundle; a long one waits in its middle for a line, or for its end."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", EXPORTER, str(output), how], text=True, cwd=Path(__file__).resolve().parents[2], **pipes)
    if how == "long":
        assert process.stdout.readline() == "at work\n"
    return process


def test_a_second_export_to_the_same_place_is_refused_and_the_first_one_ends_well(tmp_path):
    first = exporter(tmp_path / "b", "long")
    second = exporter(tmp_path / "b", "short")
    said = second.communicate()[1]
    assert second.returncode == 1 and f"{tmp_path / 'b'} is being written by process {first.pid} on " in said
    assert "wait for it, or choose another output" in said
    other = exporter(tmp_path / "c", "short")
    assert (other.communicate()[1], other.returncode) == ("", 0)
    assert (first.communicate("\n")[1], first.returncode) == ("", 0)
    assert (tmp_path / "b" / "a").read_text() == "long" and sorted(p.name for p in tmp_path.iterdir()) == ["b", "c"]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_export_blocks_nobody_and_leaves_the_older_bundle(tmp_path, end):
    make(tmp_path / "b", {"a": (1, "older")}, [])
    first = exporter(tmp_path / "b", "long")
    first.send_signal(end)
    first.communicate()
    assert first.returncode == -end and (tmp_path / "b" / "a" / "file").read_text() == "older"
    second = exporter(tmp_path / "b", "short")
    assert (second.communicate()[1], second.returncode) == ("", 0)
    assert (tmp_path / "b" / "a").read_text() == "short" and [p.name for p in tmp_path.iterdir()] == ["b"]


def test_a_place_that_cannot_be_written_is_said_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match=r"file is a file: choose another output"), claimed(tmp_path / "file" / "b"):
        pytest.fail("went on")
    with pytest.raises(OSError, match=r"cannot write the bundle /proc/b \(No such file or directory: /proc/b\.lock\)"), claimed(Path("/proc/b")):
        pytest.fail("went on")
    denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/there/b.lock")  # root may write everywhere: the system's answer is made up
    monkeypatch.setattr(module, "locked_file", lambda *a: (_ for _ in ()).throw(denied))
    sentence = r"cannot write the bundle .*b \(Permission denied: /there/b\.lock\): make room or choose another output"
    with pytest.raises(OSError, match=sentence), claimed(tmp_path / "b"):
        pytest.fail("went on")


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="make room") as caught, staged_bundle(tmp_path / "b"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.errno == errno.ENOSPC and list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match=r"cannot write the bundle .*b \(No space left on device\): make room"), staged_bundle(tmp_path / "b"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")  # as safetensors says it
    with pytest.raises(SafetensorError, match="invalid header"), staged_bundle(tmp_path / "b"):
        raise SafetensorError("invalid header")
    assert list(tmp_path.iterdir()) == []


def test_an_export_killed_between_its_last_two_steps_has_lost_nothing(tmp_path):
    make(tmp_path / "b", {"a": (1, "one")}, [])
    (tmp_path / "b").rename(tmp_path / "b.old")
    made = []
    make(tmp_path / "b", {"a": (1, "one")}, made)
    assert made == [] and (tmp_path / "b" / "a" / "file").read_text() == "one" and [p.name for p in tmp_path.iterdir()] == ["b"]


def test_no_space_is_said_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 10**12, 10**9))
    require_space(tmp_path / "new" / "b", 10**9)
    with pytest.raises(ValueError, match=r"needs about 2\.0 GB .* 1\.0 GB are free"):
        require_space(tmp_path / "new" / "b", 2 * 10**9)


def test_parts_that_will_be_linked_need_no_room(tmp_path):
    output, made = tmp_path / "b", []
    keys = {name: (lambda: {"key": 1}) for name in "abc"} | {"new": lambda: pytest.fail("the key of a part that the older bundle lacks was asked for")}
    assert unchanged_parts(output, keys) == set()
    make(output, {"a": (1, "one"), "b": (2, "two"), "c": (1, "three")}, made)
    assert unchanged_parts(output, keys) == {"a", "c"}
    (output / "c" / "file").write_text("cut")
    assert unchanged_parts(output, keys) == {"a"}
    make(output, {"a": (1, "one"), "b": (1, "two"), "c": (1, "three")}, made)
    assert made == ["a", "b", "c", "b", "c"]  # the same ones


def test_a_foreign_directory_is_not_overwritten(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="is no bundle"):
        make(tmp_path / "b", {}, [])
    assert (tmp_path / "b" / "thesis.tex").exists()
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty", {"a": (1, "one")}, [])


@pytest.mark.parametrize("manifest", ["{", '{"schema_version": 0, "parts": {}}'], ids=["damaged", "another version"])
def test_a_bundle_that_cannot_be_read_is_made_anew(tmp_path, manifest, caplog):
    """What the error of a reader asks for: "export the bundle again"."""
    made = []
    make(tmp_path / "b", {"a": (1, "one")}, made)
    (tmp_path / "b" / module.MANIFEST).write_text(manifest)
    make(tmp_path / "b", {"a": (1, "one")}, made)
    assert made == ["a", "a"] and changed_files(tmp_path / "b", read_manifest(tmp_path / "b")) == [] and "every part is made again" in caplog.text


def test_broken_manifests_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"no manifest\.json"):
        read_manifest(tmp_path)
    (tmp_path / module.MANIFEST).write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        read_manifest(tmp_path)
    (tmp_path / module.MANIFEST).write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(ValueError, match="schema_version 99"):
        read_manifest(tmp_path)
    (tmp_path / module.MANIFEST).write_text("[]")
    with pytest.raises(ValueError, match="schema_version None"):
        read_manifest(tmp_path)
    (tmp_path / module.MANIFEST).write_text(json.dumps({"schema_version": 1}))
    with pytest.raises(ValueError, match=r"damaged \(it lacks parts and settings\)"):
        read_manifest(tmp_path)
