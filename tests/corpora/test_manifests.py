"""Manifests that were damaged on the way: what can be read is read, what cannot is said."""

import gzip
import json
from pathlib import Path

import pytest
from lhotse import MonoCut, Recording, SupervisionSegment
from lhotse.audio import AudioSource

from nemo_desta.corpora.manifests import UNKNOWN_FIELD, read_cuts, write_cuts

COUNT = 60


def cut(name: str) -> MonoCut:
    recording = Recording(name, [AudioSource("file", [0], f"{name}.flac")], 16000, 32000, 2.0)
    return MonoCut(name, 0.0, 2.0, 0, supervisions=[SupervisionSegment(name, name, 0.0, 2.0, text=f"a café, number {name}")], recording=recording)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "cuts.jsonl.gz"
    write_cuts(path, [cut(f"clip{i:03d}") for i in range(COUNT)])
    return path


def test_a_whole_manifest_has_no_problems(manifest: Path) -> None:
    problems: list[str] = []
    assert len(read_cuts(manifest, problems=problems)) == COUNT and problems == []


@pytest.mark.parametrize("place", [0.0, 0.02, 0.2, 0.5, 0.8, 0.97, 1.0])
@pytest.mark.parametrize("salvage", [None, []])
def test_a_flipped_byte_in_a_gzip_file_is_refused(manifest: Path, place: float, salvage: list[str] | None) -> None:
    content = bytearray(manifest.read_bytes())
    # Not bytes 3 to 9: a flag or the time of the header may be wrong without any loss.
    at = 0 if place == 0 else 10 + int(place * (len(content) - 11))
    content[at] ^= 0xFF
    manifest.write_bytes(content)
    with pytest.raises(ValueError, match=r"cuts\.jsonl\.gz is cut off or damaged \(.+\): .*remove it and repeat the step"):
        read_cuts(manifest, problems=salvage)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_gzip_file_that_ends_early_is_refused(manifest: Path, share: float) -> None:
    content = manifest.read_bytes()
    manifest.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"cuts\.jsonl\.gz is cut off or damaged"):
        read_cuts(manifest)


def test_a_gzip_file_of_no_cuts_is_an_empty_set(manifest: Path) -> None:
    write_cuts(manifest, [])
    assert manifest.stat().st_size > 0 and len(read_cuts(manifest)) == 0


def test_a_byte_that_is_no_text_costs_its_line_only(manifest: Path, tmp_path: Path) -> None:
    lines = gzip.decompress(manifest.read_bytes()).splitlines(keepends=True)
    lines[3] = lines[3].replace("é".encode(), b"\xff")
    (tmp_path / "cuts.jsonl").write_bytes(b"".join(lines))
    problems: list[str] = []
    assert len(read_cuts(tmp_path / "cuts.jsonl", problems=problems)) == COUNT - 1
    assert len(problems) == 1 and "line 4" in problems[0] and UNKNOWN_FIELD not in problems[0]


def test_an_unknown_field_is_told_apart_from_a_lost_cut(tmp_path: Path) -> None:
    (tmp_path / "cuts.jsonl").write_text(json.dumps({**cut("a").to_dict(), "colour": "blue"}) + "\n")
    problems: list[str] = []
    assert len(read_cuts(tmp_path / "cuts.jsonl", problems=problems)) == 1
    assert len(problems) == 1 and UNKNOWN_FIELD in problems[0]
