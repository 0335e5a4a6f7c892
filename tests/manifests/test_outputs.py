"""Outputs: nothing of another command or of the user is ever removed, and an old output stays until the new one is whole."""

import os
import socket
from pathlib import Path

import pytest

from nemo_desta.manifests import sinks
from nemo_desta.manifests.shar import SharOptions, write_shar
from nemo_desta.manifests.sinks import open_sink
from nemo_desta.manifests.sources import records
from nemo_desta.manifests.store_writer import StoreWriter
from tests.manifests.cuts import cut, manifest
from tools.manifests import main


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def ids(path: Path) -> list[str]:
    return [r["id"] for r in records(path)]


def write_store(path: Path, numbers: range, root: Path, **options) -> Path:
    with open_sink(path, shard_lines=2, **options) as sink:
        for i in numbers:
            sink.write(cut(i, root))
    return path


def shar(path: Path) -> None:
    write_shar(manifest(path.parent, [cut(i, path.parent) for i in range(2)]), path, SharOptions())


def begun_shar(path: Path) -> None:
    shar(path)
    (path / "index.json").unlink()


def targets(path: Path) -> None:
    path.mkdir()
    for name in ("plan.json", "rows.jsonl", "rejected.jsonl"):
        (path / name).write_text("{}\n")


def begun_targets(path: Path) -> None:
    (path / "parts/000000").mkdir(parents=True)
    for name in ("plan.json", "inputs.json", "parts/000000/rows.jsonl"):
        (path / name).write_text("{}\n")


def targets_of_ray(path: Path) -> None:
    write_store(path, range(2), path.parent)
    begun_targets(path)


def begun_import(path: Path) -> None:
    with StoreWriter(path, {"command": "import-aqa5m"}) as writer:
        writer.write_record(cut(0, path))
        writer.commit()


def begun_import_with_durations(path: Path) -> None:
    begun_import(path)
    (path / "durations.sqlite").write_bytes(b"hours of work")


def indexed_files(path: Path) -> None:
    assert main(["index", "--jsonl", str(manifest(path, [cut(0, path)], "cuts.000000.jsonl", audio=False))]) == 0


FOREIGN = [shar, begun_shar, targets, begun_targets, targets_of_ray, begun_import, begun_import_with_durations, indexed_files]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("make", FOREIGN)
def test_what_another_command_wrote_is_never_removed(tmp_path, make, overwrite):
    make(tmp_path / "out")
    before = content(tmp_path / "out")
    with pytest.raises(ValueError, match=r"holds output of another command.*choose another --output"), open_sink(tmp_path / "out", overwrite=overwrite):
        pass
    assert content(tmp_path / "out") == before


def test_a_file_under_the_name_of_a_store_is_kept(tmp_path):
    (tmp_path / "out").write_text("notes")
    with pytest.raises(ValueError, match="is a file, and an indexed store is a folder"), open_sink(tmp_path / "out", overwrite=True):
        pass
    assert (tmp_path / "out").read_text() == "notes"


def test_a_store_of_an_earlier_version_is_replaced(tmp_path):
    with StoreWriter(tmp_path / "out", {"command": "dedup", "by": "id"}) as writer:
        writer.write_record(cut(0, tmp_path))
        writer.finish()
    with pytest.raises(ValueError, match="--overwrite"), open_sink(tmp_path / "out"):
        pass
    assert ids(write_store(tmp_path / "out", range(3, 6), tmp_path, overwrite=True)) == ["c3", "c4", "c5"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_failed_writer_leaves_the_old_store(tmp_path):
    write_store(tmp_path / "out", range(5), tmp_path)
    before = content(tmp_path / "out")
    with pytest.raises(RuntimeError), open_sink(tmp_path / "out", overwrite=True, shard_lines=1) as sink:
        sink.write(cut(7, tmp_path))
        sink.write(cut(8, tmp_path))
        raise RuntimeError
    after = content(tmp_path / "out")
    assert after.pop(".lock") and before.pop(".lock") and after == before and [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_process_killed_while_it_replaced_a_store_loses_nothing(tmp_path, monkeypatch):
    write_store(tmp_path / "out", range(2), tmp_path)
    rename, calls = os.rename, []

    def killed(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr("nemo_desta.manifests.store_writer.os.rename", killed)
    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path / "out", range(3, 5), tmp_path, overwrite=True)
    monkeypatch.undo()
    assert not (tmp_path / "out").exists()
    (tmp_path / ".out.part").mkdir()
    (tmp_path / ".out.part" / ".plan.json.x1.tmp").touch()
    with pytest.raises(RuntimeError), open_sink(tmp_path / "out", overwrite=True):
        raise RuntimeError
    assert ids(tmp_path / "out") == ["c0", "c1"] and [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_trace_with_files_of_the_user_is_not_removed(tmp_path):
    (tmp_path / ".out.part").mkdir()
    (tmp_path / ".out.part/thesis.txt").touch()
    with pytest.raises(ValueError, match=r"thesis.txt\): move them elsewhere"), open_sink(tmp_path / "out"):
        pass
    assert (tmp_path / ".out.part/thesis.txt").exists()


def test_a_linked_store_is_replaced_where_it_lies(tmp_path):
    write_store(tmp_path / "disk/out", range(2), tmp_path)
    (tmp_path / "out").symlink_to("disk/out")
    write_store(tmp_path / "out", range(3, 5), tmp_path, overwrite=True)
    assert (tmp_path / "out").is_symlink() and ids(tmp_path / "disk/out") == ["c3", "c4"]


@pytest.mark.parametrize("kind", ["cuts.jsonl", "cuts.jsonl.gz", "store"])
def test_an_output_may_be_its_own_input(tmp_path, kind, capsys):
    path = tmp_path / kind
    with open_sink(path, shard_lines=2) as sink:
        for i in (0, 1, 0, 2, 1):
            sink.write(cut(i, tmp_path))
    common = ["--manifest", str(path), "--output", str(path)]
    assert main(["dedup", *common]) == 2 and "--overwrite" in capsys.readouterr().err and len(ids(path)) == 5
    assert main(["dedup", *common, "--by", "sound", "--overwrite"]) == 2 and len(ids(path)) == 5
    assert main(["dedup", *common, "--overwrite"]) == 0 and ids(path) == ["c0", "c1", "c2"]
    assert main(["merge", "--manifests", str(path), "--output", str(path), "--overwrite"]) == 0 and ids(path) == ["c0", "c1", "c2"]
    assert main(["sample", *common, "--number", "1", "--overwrite"]) == 0 and len(ids(path)) == 1


def test_a_part_of_a_split_may_be_its_input(tmp_path):
    path = write_store(tmp_path / "parts/train", range(20), tmp_path)
    command = ["split", "--manifest", str(path), "--output-dir", str(tmp_path / "parts"), "--fractions", "train=0.5,test=0.5", "--by", "cut"]
    assert main([*command, "--store", "--overwrite"]) == 0
    assert sorted(ids(path) + ids(tmp_path / "parts/test")) == sorted(f"c{i}" for i in range(20))


def test_a_file_of_an_input_folder_is_no_output(tmp_path, capsys):
    store = write_store(tmp_path / "store", range(3), tmp_path)
    shar(tmp_path / "shar")
    for folder, file in ((store, "cuts.000000.jsonl"), (tmp_path / "shar", "shards/cuts.000000.jsonl.gz")):
        before = content(folder)
        assert main(["dedup", "--manifest", str(folder), "--output", str(folder / file), "--overwrite"]) == 2
        assert "would no longer fit" in capsys.readouterr().err and content(folder) == before
    assert main(["dedup", "--manifest", str(store / "cuts.000001.jsonl"), "--output", str(store), "--overwrite"]) == 0 and ids(store) == ["c2"]


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "store"])
def test_a_second_writer_hears_who_the_first_is(tmp_path, name):
    said = f"{name} is being written by process {os.getpid()} on {socket.gethostname()}: wait for it"
    with open_sink(tmp_path / name) as sink:
        sink.write(cut(0, tmp_path))
        with pytest.raises(ValueError, match=said), open_sink(tmp_path / name, overwrite=True):
            pass
    assert [p.name for p in tmp_path.iterdir()] == [name] and ids(tmp_path / name) == ["c0"]


@pytest.mark.parametrize("name", ["out.jsonl", "store"])
def test_an_output_that_appears_before_the_lock_is_held_is_kept(tmp_path, name, monkeypatch):
    function = "locked_file" if name.endswith("l") else "exclusive"
    locking = getattr(sinks, function)

    def late(*arguments):
        monkeypatch.undo()
        write_store(tmp_path / name, range(2), tmp_path)
        return locking(*arguments)

    monkeypatch.setattr(sinks, function, late)
    with pytest.raises(ValueError, match="exists: choose another output"), open_sink(tmp_path / name):
        pass
    assert ids(tmp_path / name) == ["c0", "c1"]


def test_a_place_that_a_store_cannot_take_is_said_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr("os.path.ismount", lambda path: Path(path).name == "disk")
    with pytest.raises(ValueError, match=r"disk is a mount point.*name a folder below it"), open_sink(tmp_path / "disk"):
        pass
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(ValueError, match=r"may not be written.*choose another --output"), open_sink(tmp_path / "store"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["disk"]
