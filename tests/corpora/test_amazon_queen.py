"""Flight of the Amazon Queen: a container and dialogue files made here in the documented layout, and the real one."""

import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from nemo_desta.corpora.amazon_queen import FEMALE, TEST_CHARACTERS, Container, parse_amazon_queen, prepare_amazon_queen, read_dialogue, read_lines
from nemo_desta.corpora.audio import load_16k
from nemo_desta.corpora.build import BuildSettings


def sentence(identifier: int, text: str) -> bytes:
    entry = struct.pack(">HHB", 0, identifier, len(text)) + text.encode("cp437")
    return entry + b"\0" * (-len(entry) % 4)


def dialogue(number: int, joe: list[tuple[int, str]], partner: list[tuple[int, str]], levels: int = 1) -> bytes:
    """Content of a ``.DOG`` member."""
    of_joe, of_partner = (b"".join(sentence(*entry) for entry in part) for part in (joe, partner))
    partner_at = 32 + 96 * levels + len(of_joe)
    head = struct.pack(">5h", -levels, 0, number, len(joe), len(partner)).ljust(22, b"\0") + struct.pack(">H", partner_at)
    return b"\0" * 20 + head.ljust(32 + 96 * levels, b"\0") + of_joe + of_partner


def mp3(seconds: float, path: Path) -> bytes:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mp3", rate=11_025)
        stream.layout = "mono"
        samples = (np.random.default_rng(0).standard_normal(round(11_025 * seconds)) * 3000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.rate = 11_025
        for part in av.AudioResampler(format="s16p", layout="mono", rate=11_025, frame_size=stream.frame_size).resample(frame):
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    return path.read_bytes()


def container(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    offset, table = 15 + 21 * len(members), b""
    for name, data in members.items():
        table += struct.pack(">12sBII", name.encode(), 1, offset, len(data))
        offset += len(data)
    path.write_bytes(b"QTBL" + b"CEM10" + b"\0" * 4 + struct.pack(">H", len(members)) + table + b"".join(members.values()))
    return path


@pytest.fixture
def dirs(tmp_path: Path) -> dict[str, Path]:
    voice = mp3(1.0, tmp_path / "voice.mp3")
    members = {
        "FAYE3.DOG": dialogue(2, [(6, "Hello.*12Anyone there?")], [(0x1F, "<sigh> Who asks?"), (33, "Nobody recorded this.")]),
        "IAN1.DOG": dialogue(75, [], [(7, "*AAI know.")], levels=3),
        "020006J1.SB": voice,
        "020006J2.SB": voice,
        "02001FP1.SB": voice,
        "750007P2.SB": voice,
        "C18A_1.SB": voice,
    }
    container(tmp_path / "package/usr/share/scummvm/flight-of-the-amazon-queen/queen.1c", members)
    return {"flight-of-the-amazon-queen": tmp_path / "package"}


def test_dialogue_layout() -> None:
    data = dialogue(2, [(6, "One.*12Two.*XY05(120,99)*ABThree.")], [(300, "Ümlaut?")], levels=2)
    assert read_dialogue(data) == [("020006J1.SB", "One.", "J"), ("020006J2.SB", "Two.", "J"), ("020006J4.SB", "Three.", "J"), ("02012CP1.SB", "Ümlaut?", "P")]


def test_lines_and_labels(dirs: dict[str, Path]) -> None:
    clips = {clip.id: clip for clip in parse_amazon_queen(dirs, ["ian"])}
    assert {key: (clip.text, clip.gender, clip.group, clip.split) for key, clip in clips.items()} == {
        "joe-020006J1": ("Hello.", "male", "joe", "train"),
        "joe-020006J2": ("Anyone there?", "male", "joe", "train"),
        "faye-02001FP1": ("Who asks?", "female", "faye", "train"),
        "ian-750007P2": ("I know.", "male", "ian", "test"),
    }


def test_prepare(dirs: dict[str, Path], tmp_path: Path) -> None:
    cuts = prepare_amazon_queen(dirs, tmp_path / "out", settings=BuildSettings(num_jobs=1), test_characters=["faye"])
    assert len(cuts) == 4
    assert Counter(cut.custom["split"] for cut in cuts) == {"train": 3, "test": 1}
    assert all(0.9 < cut.duration < 1.3 for cut in cuts)


def test_broken_containers_are_errors(tmp_path: Path) -> None:
    (tmp_path / "zip").write_bytes(b"PK\x03\x04" + b"\0" * 50)
    with pytest.raises(ValueError, match="not a game container"):
        Container(tmp_path / "zip")
    whole = container(tmp_path / "whole", {"A.SB": b"x", "B.SB": b"y"}).read_bytes()
    (tmp_path / "half").write_bytes(whole[:40])
    with pytest.raises(ValueError, match="table of 2 members"):
        Container(tmp_path / "half")


@pytest.mark.assets
def test_real_package(asset: Callable[..., dict[str, Path]]) -> None:
    dirs = asset("flight-of-the-amazon-queen")
    clips = list(parse_amazon_queen(dirs, TEST_CHARACTERS))
    assert len(clips) == 3749 == len({clip.id for clip in clips})
    speakers = Counter(clip.group for clip in clips)
    assert len(speakers) == 30 and speakers["joe"] == 1214 and set(speakers) >= FEMALE | set(TEST_CHARACTERS)
    held_out = Counter(clip.gender for clip in clips if clip.split == "test")
    assert min(held_out["female"], held_out["male"]) > 150 and held_out.total() < 600
    clip = next(clip for clip in clips if clip.id == "joe-020006J1")
    assert clip.text == "At least I don't look like I need to wear one."
    assert 2.0 < len(load_16k(clip.audio, format=clip.format)) / 16_000 < 4.0
    assert len(read_lines(Container(dirs["flight-of-the-amazon-queen"] / "usr/share/scummvm/flight-of-the-amazon-queen/queen.1c"))) == 3749
