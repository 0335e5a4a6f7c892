"""Tux Paint stamps: what is on a picture, read aloud in 13 languages, and the sound of the thing (Debian package ``tuxpaint-stamps-default``).

Beside the picture ``X.png`` lie ``X_desc_LL.ogg`` (the description in language LL; without ``_LL``: English), ``X.ogg`` (the thing's own sound) and
``X.txt``: the first line is English, every other one ``LL.utf8=text``. One volunteer read each language, so a language is a voice and a group.
Short words and phrases; speakers of en and nl often leave out the article that the text has.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_desta.corpora.build import BuildSettings, ClipSource, build_cuts
from nemo_desta.corpora.sound_classes import describe_music, describe_sound, split_by_class, without_duplicates

if TYPE_CHECKING:
    from lhotse import CutSet

PACKAGE = "tuxpaint-stamps-default"
_STAMPS = "usr/share/tuxpaint/stamps"
_ATTRIBUTION = "Tux Paint stamps, (C) 2002-2022 Bill Kendrick and contributors"
LANGUAGES = {
    "be": "Belarusian",
    "bg": "Bulgarian",
    "ca": "Catalan",
    "da": "Danish",
    "el": "Greek",
    "en": "English",
    "es": "Spanish",
    "fr": "French",
    "lt": "Lithuanian",
    "ml": "Malayalam",
    "nl": "Dutch",
    "pt_BR": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
}
# By the median pitch of each voice: men 113-134 Hz, women 209-251 Hz. The others were read by several people, or hold too few clips.
_GENDERS = {code: "male" for code in ("fr", "ru", "ca", "bg", "da", "nl")} | {code: "female" for code in ("ro", "es", "be", "el")}
TEST_LANGUAGES = ("es", "nl", "en")  # other human voices speak these in the training set; see docs/corpora.md
_VOICE_FILE = re.compile(r"(?P<stem>.+)_desc(?:_(?P<code>[a-z]{2}(?:_[A-Z]{2})?))?\.(?:ogg|wav)$")
_NOT_THINGS = frozenset({"symbols", "roadsigns", "flags", "hanukkah"})  # folders whose X.ogg is a voice


def read_texts(path: Path) -> dict[str, str]:
    """Descriptions of a stamp by language code, English under ``en``; empty where the file is missing."""
    if not path.is_file():
        return {}
    first, *rest = path.read_text("utf-8", errors="replace").splitlines() or [""]
    texts = {code: text for code, _, text in (line.partition(".utf8=") for line in rest)}
    return {code: " ".join(text.split()) for code, text in {**texts, "en": first}.items() if text.strip()}


def _voices(root: Path, test_languages: Sequence[str]) -> Iterator[ClipSource]:
    """Descriptions that have words, in order of their path."""
    for path in sorted(p for p in root.rglob("*_desc*") if p.suffix in (".ogg", ".wav")):
        match = _VOICE_FILE.fullmatch(path.name)
        code = (match["code"] or "en") if match else ""
        texts = read_texts(path.with_name(f"{match['stem']}.txt")) if match else {}
        if code not in LANGUAGES or code not in texts:
            continue
        inner = path.relative_to(root)
        attributes = {"style": "read aloud"} | ({"translation_en": texts["en"]} if code != "en" and "en" in texts else {})
        yield ClipSource(
            id=f"{code}-{inner.with_suffix('').as_posix()}",
            audio=path,
            group=f"voice-{code}",
            domain="speech",
            licence="GPL-2.0",
            attribution=_ATTRIBUTION,
            origin=f"{PACKAGE}: {_STAMPS}/{inner.as_posix()}",
            text=texts[code],
            language=LANGUAGES[code],
            gender=_GENDERS.get(code),
            speaker=f"tuxpaint-{code}",
            attributes=attributes,
            split="test" if code in test_languages else "train",
        )


def _sounds(root: Path) -> Iterator[ClipSource]:
    """Sounds of things and instruments, in order of their path."""
    for path in sorted(root.rglob("*.ogg")):
        inner = path.relative_to(root)
        if "_desc" in path.stem or _NOT_THINGS & set(inner.parts):
            continue
        music = "music" in inner.parts
        label = describe_sound("tuxpaint", path.stem)
        attributes = describe_music("tuxpaint", path.stem) if music else label and label.attributes()
        if attributes is None:
            continue
        yield ClipSource(
            id=f"sound-{inner.with_suffix('').as_posix()}",
            audio=path,
            group=f"sound-{path.stem}",
            domain="music" if music else "sound",
            licence="GPL-2.0",
            attribution=_ATTRIBUTION,
            origin=f"{PACKAGE}: {_STAMPS}/{inner.as_posix()}",
            attributes=attributes or {"instrument": path.stem.replace("_", " ")},
        )


def parse_tuxpaint(
    corpus_dirs: Mapping[str, Path], settings: BuildSettings, *, voices: bool, sounds: bool, test_languages: Sequence[str]
) -> Iterator[ClipSource]:
    """Clips of the chosen kinds."""
    root = corpus_dirs[PACKAGE] / _STAMPS
    if voices:
        yield from _voices(root, test_languages)
    if sounds:
        yield from split_by_class("tuxpaint", without_duplicates(_sounds(root)), settings)


def prepare_tuxpaint(
    corpus_dirs: Mapping[str, Path],
    output_dir: str | Path,
    *,
    settings: BuildSettings,
    voices: bool = True,
    sounds: bool = True,
    test_languages: Sequence[str] = TEST_LANGUAGES,
) -> "CutSet":
    """Spoken names of things, and their sounds.

    Args:
        corpus_dirs: The unpacked package ``tuxpaint-stamps-default``.
        output_dir: Folder of all corpora.
        settings: See `BuildSettings`.
        voices: Take the descriptions (about 7,300 clips).
        sounds: Take the sounds (about 100 clips).
        test_languages: Codes of the voices to hold out.

    Returns:
        The clips.
    """
    sources = parse_tuxpaint(corpus_dirs, settings, voices=voices, sounds=sounds, test_languages=test_languages)
    return build_cuts("tuxpaint", sources, output_dir, settings)
