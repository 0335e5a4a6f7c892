"""Clips of the prepared speech corpora with noise at a known signal-to-noise ratio, and clean ones at another level.

Labels, group and split are the parent's. Noise that is itself a recording (babble, environmental sound) comes from clips of the same split.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_desta.corpora import NoParentsError
from nemo_desta.corpora.audio import SAMPLE_RATE, load_16k
from nemo_desta.corpora.build import CUTS_FILE, BuildSettings, ClipSource, build_cuts
from nemo_desta.corpora.manifests import read_cuts

if TYPE_CHECKING:
    from lhotse import CutSet, MonoCut

SNRS_DB = (0.0, 5.0, 10.0)
NOISES = ("white", "pink", "babble", "environment")
_BABBLE_VOICES = 4
_PEAKS = (0.1, 0.25, 0.6)  # of the finished clip
_ACTIVE_DB = 30.0  # frames this far below the loudest ones are pauses: the speech level is measured without them
# Measured on the parent's waveform; the mixture has its own.
_NOT_INHERITED = frozenset({"loudness", "loudness_db", "noise", "snr_db", "duration_seconds"})
_CLEAN_SNR_DB = 25.0  # a parent below this is too noisy itself to be mixed at a known ratio


def speech_power(samples: np.ndarray) -> float:
    """Mean power of the 25 ms frames that hold speech (within 30 dB of the loud ones).

    Args:
        samples: ``[T]`` at 16 kHz.
    """
    width = 400
    if len(samples) < width:
        return float(np.mean(np.square(samples, dtype=np.float64)))
    frames = samples[: len(samples) // width * width].reshape(-1, width).astype(np.float64)
    power = np.mean(np.square(frames), axis=1)
    return float(power[power >= np.percentile(power, 95) * 10.0 ** (-_ACTIVE_DB / 10.0)].mean())


def coloured_noise(kind: str, count: int, seed: int) -> np.ndarray:
    """White or pink noise of unit power.

    Args:
        kind: "white" (flat spectrum) or "pink" (power falls as 1/f).
        count: Number of samples.
        seed: Of the draw.

    Returns:
        ``[count]`` float32.
    """
    white = np.random.default_rng(seed).standard_normal(count)
    if kind == "pink":
        spectrum = np.fft.rfft(white)
        spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))
        white = np.fft.irfft(spectrum, count)
    return (white / np.sqrt(np.mean(np.square(white)))).astype(np.float32)


def recorded_noise(paths: Sequence[Path], count: int, seed: int) -> np.ndarray:
    """Recordings at equal power, each repeated or cut to length from a drawn position, summed to unit power.

    Args:
        paths: Audio files.
        count: Number of samples.
        seed: Of the positions.

    Returns:
        ``[count]`` float32.
    """
    rng = np.random.default_rng(seed)
    total = np.zeros(count, dtype=np.float64)
    for path in paths:
        samples = load_16k(path)
        power = float(np.mean(np.square(samples, dtype=np.float64)))
        repeated = np.tile(samples, count // len(samples) + 2)
        start = int(rng.integers(len(samples)))
        total += repeated[start : start + count] / np.sqrt(max(power, 1e-12))
    return (total / np.sqrt(max(float(np.mean(np.square(total))), 1e-12))).astype(np.float32)


def mix(speech: np.ndarray, noise: np.ndarray, snr_db: float, peak: float) -> np.ndarray:
    """Add noise of unit power to speech.

    Args:
        speech: ``[T]``.
        noise: ``[T]``, unit power.
        snr_db: Ratio of the speech power (without pauses) to the noise power.
        peak: Largest absolute sample of the result.

    Returns:
        ``[T]`` float32.
    """
    scale = np.sqrt(speech_power(speech) / 10.0 ** (snr_db / 10.0))
    return _at_peak(speech + scale * noise, peak)


def _at_peak(samples: np.ndarray, peak: float) -> np.ndarray:
    largest = float(np.abs(samples).max())
    return (samples * (peak / largest) if largest > 0.0 else samples).astype(np.float32)


def render_noisy(path: Path, kind: str, recordings: tuple[Path, ...], snr_db: float | None, peak: float, seed: int) -> tuple[np.ndarray, int]:
    """Loader of one clip.

    Args:
        path: The parent's audio.
        kind: One of `NOISES`, or "clean".
        recordings: What babble and environment are made of.
        snr_db: Signal-to-noise ratio; None for clean clips.
        peak: Largest absolute sample of the result.
        seed: Of the noise.

    Returns:
        Samples ``[T]`` float32 at 16 kHz, and that rate.
    """
    speech = load_16k(path)
    if snr_db is None:
        return _at_peak(speech, peak), SAMPLE_RATE
    noise = recorded_noise(recordings, len(speech), seed) if recordings else coloured_noise(kind, len(speech), seed)
    return mix(speech, noise, snr_db, peak), SAMPLE_RATE


def _path(cut: "MonoCut") -> Path:
    return Path(cut.recording.sources[0].source)


def _custom(cut: "MonoCut") -> dict[str, Any]:
    return dict(cut.supervisions[0].custom or {})


def _usable(cut: "MonoCut", max_seconds: float) -> bool:
    """A parent has words, is not too short or long, and is clean itself."""
    supervision = cut.supervisions[0]
    snr = _custom(cut).get("snr_db")
    return cut.custom["domain"] == "speech" and bool(supervision.text) and 1.0 <= cut.duration <= max_seconds and (snr is None or float(snr) >= _CLEAN_SNR_DB)


def _even_choice(cuts: Sequence["MonoCut"], count: int, rng: random.Random) -> list["MonoCut"]:
    """Draw clips so that every group (voice) gives about the same number."""
    by_group: dict[str, list[MonoCut]] = {}
    for cut in cuts:
        by_group.setdefault(cut.custom["group"], []).append(cut)
    for group in by_group.values():
        rng.shuffle(group)
    order = sorted(by_group)
    rng.shuffle(order)
    chosen: list[MonoCut] = []
    while len(chosen) < count and any(by_group.values()):
        for name in order:
            if by_group[name] and len(chosen) < count:
                chosen.append(by_group[name].pop())
    return chosen


def noisy_sources(
    speech: Sequence["MonoCut"], sounds: Sequence["MonoCut"], *, clips: int, clean_fraction: float, max_seconds: float, seed: int, test_fraction: float
) -> Iterator[ClipSource]:
    """Mixtures of the given cuts.

    Args:
        speech: Cuts of speech corpora; unsuitable ones are passed over.
        sounds: Cuts whose sound may serve as environmental noise.
        clips: Number of mixtures and clean clips in all.
        clean_fraction: Share of clean clips.
        max_seconds: Longest parent.
        seed: Of every draw.
        test_fraction: Share of test clips.

    Raises:
        NoParentsError: No usable parent.
    """
    usable = [cut for cut in speech if _usable(cut, max_seconds)]
    if not usable:
        what = f"clean speech with a transcript and of 1 to {max_seconds} s"
        raise NoParentsError(f"noisy_speech: none of the {len(speech)} given clips is {what}; prepare a speech corpus before it")
    for split in ("train", "test"):
        rng = random.Random(f"noisy_speech:{seed}:{split}")
        pool = [cut for cut in usable if cut.custom["split"] == split]
        noises = [cut for cut in sounds if cut.custom["split"] == split and cut.custom["domain"] == "sound" and cut.duration >= 1.0]
        share = test_fraction if split == "test" else 1.0 - test_fraction
        for index, parent in enumerate(_even_choice(pool, round(clips * share), rng)):
            clean = rng.random() < clean_fraction
            yield _source(parent, pool, noises, None if clean else SNRS_DB[index % len(SNRS_DB)], rng)


def _source(parent: "MonoCut", voices: Sequence["MonoCut"], noises: Sequence["MonoCut"], snr_db: float | None, rng: random.Random) -> ClipSource:
    others = [cut for cut in voices if cut.custom["group"] != parent.custom["group"]]
    kinds = [kind for kind in NOISES if (kind != "babble" or len(others) >= _BABBLE_VOICES) and (kind != "environment" or noises)]
    kind = "clean" if snr_db is None else rng.choice(kinds)
    mixed = rng.sample(others, _BABBLE_VOICES) if kind == "babble" else [rng.choice(noises)] if kind == "environment" else []
    seed, peak = rng.randrange(2**31), rng.choice(_PEAKS)
    supervision = parent.supervisions[0]
    inherited = {key: value for key, value in _custom(parent).items() if key not in _NOT_INHERITED}
    label: dict[str, Any] = {"noise": "clean"} if snr_db is None else {"noise": "noisy", "snr_db": snr_db, "noise_type": kind}
    custom = [parent.custom, *(cut.custom for cut in mixed)]
    detail = "clean" if snr_db is None else f"{kind} {snr_db:g} dB" + "".join(f" {cut.id}" for cut in mixed)
    return ClipSource(
        id=f"{parent.id}-{kind}" + ("" if snr_db is None else f"-{snr_db:g}dB"),
        audio=partial(render_noisy, _path(parent), kind, tuple(_path(cut) for cut in mixed), snr_db, peak, seed),
        group=parent.custom["group"],
        domain="speech",
        text=supervision.text,
        language=supervision.language,
        gender=supervision.gender,
        speaker=supervision.speaker,
        attributes=inherited | label,
        licence=" AND ".join(dict.fromkeys(c["license"] for c in custom)),
        attribution="; ".join(dict.fromkeys(c["attribution"] for c in custom)),
        split=parent.custom["split"],
        origin=f"{parent.id}: {detail}, peak {peak}, seed {seed}",
    )


def prepare_noisy_speech(
    corpus_dirs: Mapping[str, Path],
    output_dir: str | Path,
    *,
    settings: BuildSettings,
    clips: int = 400,
    clean_fraction: float = 0.25,
    test_fraction: float = 0.25,
    max_seconds: float = 12.0,
    corpora: Sequence[str] | None = None,
    cuts: "CutSet | None" = None,
) -> "CutSet":
    """Mix the corpus from corpora that are prepared already.

    Args:
        corpus_dirs: Not used: the material is below ``output_dir``.
        output_dir: Folder that holds the corpora.
        settings: See `BuildSettings`.
        clips: Number of clips in all (fewer where there is less speech).
        clean_fraction: Share of clips without noise.
        test_fraction: Share of test clips (voices that are in the test split of their own corpus).
        max_seconds: Longest clip.
        corpora: Names of prepared corpora to draw speech and sounds from; None = all that lie in ``output_dir``.
        cuts: The material itself, instead of ``corpora``.

    Returns:
        Clips with their parents' labels and ``noise``, ``snr_db`` and ``noise_type``.

    Raises:
        ValueError: A named corpus is not prepared, or there is no usable speech.
    """

    def sources() -> Iterator[ClipSource]:  # a generator, so that a finished corpus reads nothing
        material = list(cuts) if cuts is not None else list(_prepared(Path(output_dir), corpora))
        speech, sounds = ([cut for cut in material if cut.custom["domain"] == domain] for domain in ("speech", "sound"))
        yield from noisy_sources(
            speech, sounds, clips=clips, clean_fraction=clean_fraction, max_seconds=max_seconds, seed=settings.seed, test_fraction=test_fraction
        )

    return build_cuts("noisy_speech", sources(), output_dir, settings)


def _prepared(output_dir: Path, corpora: Sequence[str] | None) -> Iterator["MonoCut"]:
    """Cuts of prepared corpora, in the order of their names."""
    found = sorted(path.parent.name for path in output_dir.glob(f"*/{CUTS_FILE}") if path.parent.name != "noisy_speech")
    names = found if corpora is None else list(corpora)
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"noisy_speech needs the corpora {missing}, but only {found} are prepared in {output_dir}: list noisy_speech after them")
    for name in names:
        yield from read_cuts(output_dir / name / CUTS_FILE)
