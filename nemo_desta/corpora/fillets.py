"""Fish Fillets NG: acted Czech and Dutch dialogue with English translations (Debian packages ``fillets-ng-data``, ``-cs``, ``-nl``).

``sound/LEVEL/XX/ID.ogg`` is a line, ``script/LEVEL/dialogs_XX.lua`` its words: ``dialogId("ID", "FONT", "English")`` followed by
``dialogStr("text")``. The font is the character: ``font_small`` is the small fish (a woman), ``font_big`` the big one (a man); the Czech
version has 23 side characters, many with processed voices.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_desta.corpora.build import BuildSettings, ClipSource, build_cuts

if TYPE_CHECKING:
    from lhotse import CutSet

LANGUAGES = {"cs": "Czech", "nl": "Dutch"}
_GENDERS = {"font_small": "female", "font_big": "male"}  # side characters: not known well enough
# See docs/corpora.md, "Splits". "side" is every character but the two fish.
TEST_VOICES = ("cs:side", "nl:font_small")
_GAME = "usr/share/games/fillets-ng"
_ATTRIBUTION = "Fish Fillets NG, (C) ALTAR interactive and the Fish Fillets NG team"
_STRING = r'"((?:[^"\\]|\\.)*)"'
_CALL = re.compile(rf"dialogId\(\s*{_STRING}\s*,\s*{_STRING}\s*,\s*{_STRING}\s*\)|dialogStr\(\s*{_STRING}\s*\)", re.DOTALL)
_ESCAPES = {"n": " ", "t": " ", "\n": " "}


@dataclass(frozen=True)
class Dialogue:
    """One line of a level: who says it, the words, and the words in English."""

    font: str
    text: str
    english: str


def _unescape(text: str) -> str:
    plain = re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[1]), text, flags=re.DOTALL)
    return " ".join(plain.split())


def read_dialogues(path: Path) -> dict[str, Dialogue]:
    """Lines of a ``dialogs_XX.lua`` by their id. An id without translated words is left out."""
    lines: dict[str, Dialogue] = {}
    current: tuple[str, str, str] | None = None
    for identifier, font, english, text in _CALL.findall(path.read_text("utf-8", errors="replace")):
        if identifier:
            current = (identifier, font, english)
        elif current and text.strip():
            lines[current[0]] = Dialogue(current[1], _unescape(text), _unescape(current[2]))
            current = None
    return lines


def _voice(code: str, font: str) -> str:
    """The unit of holding out: a fish of a language, or all side characters of a language."""
    return f"{code}:{font if font in _GENDERS else 'side'}"


def parse_fillets(corpus_dirs: Mapping[str, Path], languages: Sequence[str], test_voices: Sequence[str]) -> Iterator[ClipSource]:
    """Clips that have both a recording and its words, in order of language, level and id."""
    scripts = corpus_dirs["fillets-ng-data"] / _GAME / "script"
    for code in languages:
        package = f"fillets-ng-data-{code}"
        for level in sorted((corpus_dirs[package] / _GAME / "sound").iterdir()):
            script = scripts / level.name / f"dialogs_{code}.lua"
            lines = read_dialogues(script) if script.is_file() else {}
            for path in sorted((level / code).glob("*.ogg")):
                if path.stem in lines:
                    yield _clip(package, code, level.name, path, lines[path.stem], corpus_dirs[package], test_voices)


def _clip(package: str, code: str, level: str, path: Path, line: Dialogue, root: Path, test_voices: Sequence[str]) -> ClipSource:
    character = line.font.removeprefix("font_")
    return ClipSource(
        id=f"{code}-{level}-{path.stem}",
        audio=path,
        group=f"{code}-{character}",
        domain="speech",
        licence="GPL-2.0",
        attribution=_ATTRIBUTION,
        origin=f"{package}: {path.relative_to(root).as_posix()}",
        text=line.text,
        language=LANGUAGES[code],
        gender=_GENDERS.get(line.font),
        speaker=f"fillets-{code}-{character}",
        attributes={"style": "acted"} | ({"translation_en": line.english} if line.english else {}),
        split="test" if _voice(code, line.font) in test_voices else "train",
    )


def prepare_fillets(
    corpus_dirs: Mapping[str, Path],
    output_dir: str | Path,
    *,
    settings: BuildSettings,
    languages: Sequence[str] = tuple(LANGUAGES),
    test_voices: Sequence[str] = TEST_VOICES,
) -> "CutSet":
    """Acted dialogue of a puzzle game.

    Args:
        corpus_dirs: The unpacked packages ``fillets-ng-data`` (words) and ``fillets-ng-data-XX`` (voices).
        output_dir: Folder of all corpora.
        settings: See `BuildSettings`.
        languages: Codes among cs, nl.
        test_voices: What to hold out: ``"<language>:<font>"``, or ``"<language>:side"`` for all side characters.

    Returns:
        3,226 clips with both languages, less those that are too short.

    Raises:
        ValueError: An unknown language code.
    """
    unknown = sorted(set(languages) - LANGUAGES.keys())
    if unknown:
        raise ValueError(f"fillets: unknown languages {unknown}; choose among {sorted(LANGUAGES)}")
    return build_cuts("fillets", parse_fillets(corpus_dirs, languages, test_voices), output_dir, settings)
