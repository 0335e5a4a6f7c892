"""Readable labels and classes of environmental sounds, and the plumbing that the packaged sound corpora share.

The labels of known files stand in ``sound_labels.yaml``; any other name is made readable by rule and classified by keywords.
"""

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from nemo_desta.corpora.build import BuildSettings, ClipSource, build_cuts
from nemo_desta.corpora.splits import stratified_test_groups

if TYPE_CHECKING:
    from lhotse import CutSet

LABELS_PATH = Path(__file__).with_name("sound_labels.yaml")
MIN_SOUND_SECONDS = 0.12
AUDIO_SUFFIXES = (".wav", ".ogg", ".oga", ".mp3", ".flac")


@dataclass(frozen=True)
class SoundLabel:
    """What is heard in a clip: a readable label ("dog barking") and its class ("dog"), or None where no class fits."""

    label: str
    sound_class: str | None

    def attributes(self) -> dict[str, str]:
        """The custom attributes of contract C1."""
        return {"sound": self.label} | ({"sound_class": self.sound_class} if self.sound_class else {})


@lru_cache(maxsize=1)
def _table() -> dict[str, Any]:
    return yaml.safe_load(LABELS_PATH.read_text(encoding="utf-8"))


def _lookup(entries: Mapping[str, str], stem: str) -> str | None:
    """Entry of a stem: as it is, without its trailing number, or None."""
    names = {str(key): value for key, value in entries.items()}
    return names.get(stem) or names.get(family(stem))


def family(stem: str) -> str:
    """Name without the number of a variant: ``fire_fire.2`` -> ``fire_fire``, ``LRBark_1_LA_cut`` -> ``LRBark``, ``Bird (1)`` -> ``Bird``."""
    return re.sub(r"(?:_?\d+)?(?:_?LA)?(?:_?[Cc]ut)?$", "", re.sub(r"\s*\(\d+\)$", "", stem)).rstrip("._- ") or stem


def readable(name: str) -> str:
    """A file name as words: ``GlassDoor_open-2`` -> ``glass door open``."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", family(name))
    return " ".join(re.sub(r"[^A-Za-z']+", " ", words).lower().split())


def sound_class(label: str) -> str | None:
    """Class of a readable label by keywords (whole words, plural allowed); the first class of the table that fits, or None."""
    for name, words in _table()["keywords"].items():
        if any(re.search(rf"\b{re.escape(word)}s?\b", label.lower()) for word in words):
            return str(name)
    return None


def classes() -> list[str]:
    """All classes that a label may have, sorted."""
    named = {
        value.split("|")[1].strip()
        for key, table in _table().items()
        if key not in ("keywords", "instruments", "genres")
        for value in table.values()
        if "|" in value
    }
    return sorted((named | set(_table()["keywords"])) - {"-"})


def describe_sound(corpus: str, stem: str) -> SoundLabel | None:
    """Label and class of one file.

    Args:
        corpus: Name of a section of ``sound_labels.yaml``; a corpus without one is described by its file names.
        stem: File name without its suffix.

    Returns:
        The label, or None where the table says that the file is no sound to use (a voice, a duplicate, a test tone).
    """
    entry = _lookup(_table().get(corpus) or {}, stem)
    if entry is None:
        label = readable(stem) or stem
        return SoundLabel(label, sound_class(label))
    if entry == "drop":
        return None
    label, _, name = (part.strip() for part in entry.partition("|"))
    return SoundLabel(label, None if name == "-" else name)


def describe_music(corpus: str, stem: str) -> dict[str, str] | None:
    """Attributes of a recording of an instrument or a loop; empty where nothing is known, None where the file is not to be used."""
    out: dict[str, str] = {}
    entry = _lookup(_table()["instruments"].get(corpus) or {}, stem)
    if entry == "drop":
        return None
    if entry:
        instrument, _, group = (part.strip() for part in entry.partition("|"))
        out = {"instrument": instrument} | ({} if group == "-" else {"instrument_family": group})
    genre = _lookup(_table()["genres"].get(corpus) or {}, stem)
    return out | ({"genre": genre} if genre else {})


def without_duplicates(sources: Iterable[ClipSource]) -> list[ClipSource]:
    """Drop files whose content occurred before (games ship the same recording under several names)."""
    seen: set[bytes] = set()
    kept = []
    for source in sources:
        content = source.audio.read_bytes() if isinstance(source.audio, Path) else source.audio()
        digest = hashlib.sha256(content if isinstance(content, bytes) else content[0].tobytes()).digest()
        if digest not in seen:
            seen.add(digest)
            kept.append(source)
    return kept


def split_by_class(name: str, sources: Iterable[ClipSource], settings: BuildSettings) -> list[ClipSource]:
    """Name the split of every clip so that each class with two recordings is heard in both splits.

    The test share is doubled for sounds: a class has few recordings, and a test set of one each would say nothing.
    """
    listed = list(sources)
    strata = {s.group: str(s.attributes.get("sound_class") or s.attributes.get("instrument") or "") for s in listed}
    test = stratified_test_groups(strata, test_fraction=min(2 * settings.test_fraction, 0.5), salt=f"{name}:{settings.seed}")
    return [dataclasses.replace(s, split="test" if s.group in test else "train") for s in listed]


def build_sounds(name: str, sources: Iterable[ClipSource], output_dir: str | Path, settings: BuildSettings) -> "CutSet":
    """`build_cuts` for packaged sounds: duplicates dropped, split by class, clips from 0.12 s on (a footstep or a bark takes no longer)."""
    settings = dataclasses.replace(settings, min_clip_seconds=min(settings.min_clip_seconds, MIN_SOUND_SECONDS))

    def clips() -> Iterator[ClipSource]:  # a generator, so that a finished corpus reads nothing
        yield from split_by_class(name, without_duplicates(sources), settings)

    return build_cuts(name, clips(), output_dir, settings)


def package_root(corpus_dirs: Mapping[str, Path], package: str, inner: str) -> Path:
    """Folder of an unpacked package.

    Args:
        corpus_dirs: Asset name -> directory.
        package: Asset name.
        inner: Path inside the package.

    Raises:
        ValueError: The asset is not in ``corpus_dirs`` or does not hold the folder.
    """
    if package not in corpus_dirs:
        raise ValueError(f"no directory for the asset {package!r} (got {sorted(corpus_dirs)}): fetch it with tools/fetch_assets.py")
    root = Path(corpus_dirs[package]) / inner
    if not root.exists():
        raise ValueError(f"{corpus_dirs[package]} holds no {inner}: is it the unpacked package {package!r}?")
    return root


def audio_files(root: Path) -> list[Path]:
    """Audio files below a folder, in a stable order."""
    return sorted(path for path in root.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file())


def folder_sources(corpus: str, package: str, root: Path, *, licence: str, attribution: str) -> Iterator[ClipSource]:
    """Sounds of a package that keeps plain audio files.

    Args:
        corpus: Section of ``sound_labels.yaml``.
        package: Name of the package, for the origin.
        root: Folder of the audio files.
        licence: Of all of them.
        attribution: Of all of them.

    Yields:
        One clip for each file that the table does not drop; numbered variants of one class form one group.
    """
    for path in audio_files(root):
        label = describe_sound(corpus, path.stem)
        if label is None:
            continue
        inner = path.relative_to(root)
        folder = inner.parent.as_posix().replace("/", "-")
        yield ClipSource(
            id=path.stem if folder == "." else f"{folder}-{path.stem}",
            audio=path,
            group=f"{corpus}/{folder}/{family(path.stem)}/{label.sound_class}",
            domain="sound",
            attributes=label.attributes(),
            licence=licence,
            attribution=attribution,
            origin=f"{package}:{inner.as_posix()}",
        )
