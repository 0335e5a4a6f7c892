"""Asterisk core sounds: telephone prompts, one professional voice per language (Debian packages ``asterisk-core-sounds-*``).

``usr/share/asterisk/sounds/<label>/**/<name>.g722`` where the label, such as ``es_MX_f_Allison``, gives language, region, gender and
speaker; the words are in ``core-sounds-XX.txt.gz`` of the package without ``-g722``: lines ``relative/name: text``.
The English and the Spanish prompts are read by the same person, so they are one group.
"""

import gzip
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_desta.corpora.build import BuildSettings, ClipSource, build_cuts

if TYPE_CHECKING:
    from lhotse import CutSet

LANGUAGES = {"en": "English", "es": "Spanish", "fr": "French", "it": "Italian", "ru": "Russian"}
_ACCENTS = {"US": "American", "MX": "Mexican", "CA": "Canadian"}  # of the region in the label; the others are the standard of their country
_GENDERS = {"f": "female", "m": "male"}
_LICENCES = {"it": "CC-BY-3.0", "ru": "CC-BY-3.0"}  # the others: CC-BY-SA-3.0
_ATTRIBUTION = {
    "en": "Asterisk core sounds, (C) 2003-2010 Allison Smith",
    "es": "Asterisk core sounds, (C) 2003-2010 Allison Smith",
    "fr": "Asterisk core sounds, (C) 2006-2008 June Wallack",
    "it": "Asterisk core sounds, (C) 2012 Carlo Flora, segreterietelefoniche.it",
    "ru": "Asterisk core sounds, (C) 2010 Maxim Topal, ivrvoice.ru",
}


def read_transcripts(path: Path) -> dict[str, str]:
    """Words by prompt name, without comments, silences, tones and placeholders in brackets.

    Args:
        path: ``core-sounds-XX.txt.gz``.
    """
    texts: dict[str, str] = {}
    for line in gzip.decompress(path.read_bytes()).decode("utf-8", errors="replace").splitlines():
        name, colon, text = (part.strip() for part in line.partition(":"))
        if colon and text and not line.startswith(";") and not text.startswith(("[", "(")) and not name.startswith(("silence/", "beep")):
            texts[name] = text
    return texts


def parse_asterisk(corpus_dirs: Mapping[str, Path], languages: Sequence[str], test_speakers: Sequence[str]) -> Iterator[ClipSource]:
    """Clips of the given languages that have a transcript, in order of language and name."""
    english = _transcripts(corpus_dirs, "en") if "asterisk-core-sounds-en" in corpus_dirs else {}
    for code in languages:
        package = f"asterisk-core-sounds-{code}-g722"
        texts = _transcripts(corpus_dirs, code)
        for voice in sorted((corpus_dirs[package] / "usr/share/asterisk/sounds").glob(f"{code}_*_*_*")):
            region, gender, speaker = voice.name.split("_")[1:4]
            for path in sorted(voice.rglob("*.g722")):
                name = path.relative_to(voice).with_suffix("").as_posix()
                if name not in texts:
                    continue
                attributes = {"style": "announcement"}
                attributes |= {"accent": _ACCENTS[region]} if region in _ACCENTS else {}
                attributes |= {"translation_en": english[name]} if code != "en" and name in english else {}
                yield ClipSource(
                    id=f"{code}-{name}",
                    audio=path,
                    group=speaker,
                    domain="speech",
                    licence=_LICENCES.get(code, "CC-BY-SA-3.0"),
                    attribution=_ATTRIBUTION[code],
                    origin=f"{package}: {path.relative_to(corpus_dirs[package]).as_posix()}",
                    text=texts[name],
                    language=LANGUAGES[code],
                    gender=_GENDERS[gender],
                    speaker=f"asterisk-{speaker}",
                    attributes=attributes,
                    split="test" if speaker in test_speakers else "train",
                    format="g722",
                )


def _transcripts(corpus_dirs: Mapping[str, Path], code: str) -> dict[str, str]:
    package = f"asterisk-core-sounds-{code}"
    return read_transcripts(corpus_dirs[package] / f"usr/share/doc/{package}/core-sounds-{code}.txt.gz")


def prepare_asterisk(
    corpus_dirs: Mapping[str, Path],
    output_dir: str | Path,
    *,
    settings: BuildSettings,
    languages: Sequence[str] = tuple(LANGUAGES),
    test_speakers: Sequence[str] = (),
) -> "CutSet":
    """Telephone prompts in up to five languages.

    Args:
        corpus_dirs: Unpacked packages ``asterisk-core-sounds-XX`` (transcripts) and ``-XX-g722`` (audio) of each language.
        output_dir: Folder of all corpora.
        settings: See `BuildSettings`.
        languages: Codes among en, es, fr, it, ru.
        test_speakers: Speakers to hold out (Allison, June, Carlo, IvrvoiceRU). None by default: each is the only human voice of her
            or his languages here, so holding one out would take the language out of training.

    Returns:
        2,675 clips with all five languages, less those that are too short.

    Raises:
        ValueError: An unknown language code.
    """
    unknown = sorted(set(languages) - LANGUAGES.keys())
    if unknown:
        raise ValueError(f"asterisk: unknown languages {unknown}; choose among {sorted(LANGUAGES)}")
    return build_cuts("asterisk", parse_asterisk(corpus_dirs, languages, test_speakers), output_dir, settings)
