"""Sounds, instruments and loops of MIT Scratch 1.4 (Debian package ``scratch``), the cleanest small set: real, well named recordings."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_desta.corpora.build import BuildSettings, ClipSource
from nemo_desta.corpora.sound_classes import audio_files, build_sounds, describe_music, describe_sound, family, package_root

if TYPE_CHECKING:
    from lhotse import CutSet

MEDIA = "usr/share/scratch/Media/Sounds"
_MUSIC_FOLDERS = ("Instruments", "Percussion", "Music Loops", "Vocals")


def scratch_sources(root: Path) -> Iterator[ClipSource]:
    """Clips below ``Media/Sounds``: the folder says sound or music, the file name what is heard."""
    for path in audio_files(root):
        folder, music = path.parent.name, path.parent.name in _MUSIC_FOLDERS
        if music:
            attributes = describe_music("scratch", path.stem)
        else:
            label = describe_sound("scratch", path.stem)
            attributes = label.attributes() if label else None
        if attributes is None:
            continue
        gender = next((word for word in ("female", "male") if f"-{word}" in path.stem), None)
        yield ClipSource(
            id=f"{folder}-{path.stem}",
            audio=path,
            group=f"scratch/{folder}/{family(path.stem)}",
            domain="music" if music else "sound",
            gender=gender,
            attributes=attributes,
            licence="CC-BY-SA-3.0",
            attribution="Scratch, MIT Media Lab Lifelong Kindergarten Group",
            origin=f"scratch:{path.relative_to(root).as_posix()}",
        )


def prepare_scratch(corpus_dirs: Mapping[str, Path], output_dir: str | Path, *, settings: BuildSettings) -> "CutSet":
    """Build the corpus.

    Args:
        corpus_dirs: Directory of the asset ``scratch``.
        output_dir: Folder that holds the corpora.
        settings: See `BuildSettings`.

    Returns:
        About 60 sounds and 50 music clips.

    Raises:
        ValueError: The package is missing or broken.
    """
    sources = scratch_sources(package_root(corpus_dirs, "scratch", MEDIA))
    return build_sounds("scratch", sources, output_dir, settings)
