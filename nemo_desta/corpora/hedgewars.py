"""Hedgewars: sound effects, and shouts in fifteen voice packs without transcripts (Debian package ``hedgewars-data``).

``Data/Sounds/*.ogg`` are effects; ``Data/Sounds/voices/PACK/INTENT.ogg`` are voices: the pack gives language, accent or style, the file's name what
the shout is for. The words differ from the file names, so there is no transcript, and the emotion is the one that the intent implies. The voices
are pitched up, so no gender is given.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_desta.corpora.build import BuildSettings, ClipSource, build_cuts
from nemo_desta.corpora.sound_classes import describe_sound, split_by_class, without_duplicates

if TYPE_CHECKING:
    from lhotse import CutSet

PACKAGE = "hedgewars-data"
_SOUNDS = "usr/share/games/hedgewars/Data/Sounds"
_LANGUAGES = {"es": "Spanish", "pl": "Polish", "ru": "Russian", "uk": "Ukrainian"}  # suffix of a pack; none = English
_ACCENTS = {"British": "British", "Russian": "Russian", "HillBilly": "Southern American"}
_STYLES = {"Surfer": "surfer", "Pirate": "pirate", "Mobster": "mobster", "Robot": "robot", "Singer": "singing"}
_EMOTIONS = {
    "happy": ("Amazing", "Brilliant", "Excellent", "Flawless", "Victory", "Yessir", "Perfect"),
    "amused": ("Laugh",),
    "angry": ("Revenge", "Justyouwait", "Illgetyou", "Gonnagetyou", "Youllregretthat", "Traitor", "Cutitout"),
    "annoyed": ("Bugger", "Drat", "Missed", "Stupid", "Nutter", "Leavemealone", "Whatthe"),
    "afraid": ("Nooo", "Runaway", "Takecover", "Uh-oh", "Ohdear", "Incoming"),
    "bored": ("Boring",),
    "in pain": ("Ow", "Ooff", "Ouch"),
}
_EMOTION_OF = {intent: emotion for emotion, intents in _EMOTIONS.items() for intent in intents}


def _voices(root: Path) -> Iterator[ClipSource]:
    """Shouts, in order of pack and intent; a pack is a group."""
    for path in sorted((root / "voices").glob("*/*.ogg")):
        pack, _, code = path.parent.name.partition("_")
        emotion = _EMOTION_OF.get(re.sub(r"\d+$", "", path.stem))
        attributes = {"style": _STYLES.get(pack, "shouting"), "intent": re.sub(r"\d+$", "", path.stem).lower()}
        attributes |= {"accent": _ACCENTS[pack]} if pack in _ACCENTS and not code else {}
        attributes |= {"emotion": emotion} if emotion else {}
        yield ClipSource(
            id=f"voice-{path.parent.name}-{path.stem}",
            audio=path,
            group=f"voice-{path.parent.name}",
            domain="speech",
            licence="GFDL-1.3",
            attribution="Hedgewars Project",
            origin=f"{PACKAGE}: {path.relative_to(root).as_posix()}",
            language=_LANGUAGES.get(code, "English"),
            speaker=f"hedgewars-{path.parent.name}",
            attributes=attributes,
        )


def _effects(root: Path) -> Iterator[ClipSource]:
    """Sound effects, in order of their name."""
    for path in sorted(root.glob("*.ogg")):
        label = describe_sound("hedgewars", path.stem)
        if label is None:
            continue
        yield ClipSource(
            id=f"sound-{path.stem}",
            audio=path,
            group=f"sound-{re.sub(r'[0-9]+$', '', path.stem)}",
            domain="sound",
            licence="CC-BY-SA-3.0" if path.stem.startswith("Droplet") else "GFDL-1.3",
            attribution="saugox (freesound.org)" if path.stem.startswith("Droplet") else "Hedgewars Project",
            origin=f"{PACKAGE}: {path.relative_to(root).as_posix()}",
            attributes=label.attributes(),
        )


def prepare_hedgewars(corpus_dirs: Mapping[str, Path], output_dir: str | Path, *, settings: BuildSettings) -> "CutSet":
    """Sound effects and shouts.

    Args:
        corpus_dirs: The unpacked package ``hedgewars-data``.
        output_dir: Folder of all corpora.
        settings: See `BuildSettings`.

    Returns:
        About 80 effects and 840 shouts.
    """
    root = corpus_dirs[PACKAGE] / _SOUNDS
    sources = (clip for part in (_voices(root), split_by_class("hedgewars", without_duplicates(_effects(root)), settings)) for clip in part)
    return build_cuts("hedgewars", sources, output_dir, settings)
