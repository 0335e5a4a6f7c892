"""Add automatic attributes to a manifest of cuts: what a model or a measurement says about each clip, with its confidence and the tagger's id.

    python tools/tag_cuts.py runs/mini/corpus/cuts_train.jsonl.gz tagged.jsonl.gz --taggers measured voice events transcript --num-jobs 2

Taggers, in the order in which they run (later ones know the words that earlier ones found):

    measured                    duration, loudness, pitch, speaking rate, SNR (no model)
    voice[:DIR]                 speech or no speech, with times (Silero; default asset://silero-vad)
    events[:DIR]                AudioSet events, instruments, genres (YAMNet; default asset://yamnet)
    transcript[:MODEL]          words by Whisper in transformers (default asset://whisper-base)
    faster-whisper:MODEL        words and language by faster-whisper (its package must be there), e.g. faster-whisper:large-v3
    gender[:MODEL]              the lab's gender classifier        age-gender[:MODEL]   the lab's age and gender model
    emotion2vec, brouhaha, penn, accent                            the lab's others; each names the package it needs
    classify:KEY:MODEL          any Hugging Face audio classifier for attribute KEY, e.g. classify:emotion:superb/wav2vec2-base-superb-er

A value lands in the attribute only where the source states none (--overwrite: always) and the confidence is at least --min-confidence; every value stands in
custom["tags"] of the source supervision. A killed run goes on where it stopped. Bad clips are passed on untagged, counted, and listed in OUTPUT.problems.txt.

Exit code: 0; 1 for a problem that the message names.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from nemo_desta.assets import AssetError, resolve_model
from nemo_desta.manifests.tagging import TagJob, tag_manifest
from nemo_desta.seed.taggers.base import Tagger


def _measured(_: str) -> Tagger:
    from nemo_desta.seed.taggers.measured import MeasuredTagger

    return MeasuredTagger()


def _voice(model: str) -> Tagger:
    from nemo_desta.seed.taggers.voice import SileroTagger

    return SileroTagger(Path(resolve_model(model or "asset://silero-vad")))


def _events(model: str) -> Tagger:
    from nemo_desta.seed.taggers.events import YamnetTagger

    return YamnetTagger(Path(resolve_model(model or "asset://yamnet")))


def _transcript(model: str) -> Tagger:
    from nemo_desta.modules.transcriber import WhisperTranscriber
    from nemo_desta.seed.taggers.transcript import TranscriptTagger

    model = model or "asset://whisper-base"
    return TranscriptTagger(WhisperTranscriber.from_pretrained(model), model.rstrip("/").rpartition("/")[2])


def _faster_whisper(model: str) -> Tagger:
    from nemo_desta.seed.taggers.transcript import FasterWhisperTagger

    return FasterWhisperTagger(model or "large-v3")


def _gender(model: str) -> Tagger:
    from nemo_desta.seed.taggers.lab import GENDER_MODEL, ClassifierTagger

    return ClassifierTagger(_local(model) or GENDER_MODEL, "gender")


def _age_gender(model: str) -> Tagger:
    from nemo_desta.seed.taggers.lab import AGE_GENDER_MODEL, AgeGenderTagger

    return AgeGenderTagger(_local(model) or AGE_GENDER_MODEL)


def _classify(rest: str) -> Tagger:
    from nemo_desta.seed.taggers.lab import ClassifierTagger

    key, _, model = rest.partition(":")
    if not key or not model:
        raise ValueError(f"classify:{rest} is not of the form classify:KEY:MODEL")
    return ClassifierTagger(_local(model), key)


def _lab(name: str) -> Callable[[str], Tagger]:
    def make(_: str) -> Tagger:
        from nemo_desta.seed.taggers import lab

        tagger: Tagger = getattr(lab, name)()
        return tagger

    return make


def _local(model: str) -> str:
    """Assets and hf:// become what from_pretrained takes; a bare id stays."""
    return str(resolve_model(model)) if "://" in model else model


MAKERS: dict[str, Callable[[str], Tagger]] = {
    "measured": _measured,
    "voice": _voice,
    "events": _events,
    "transcript": _transcript,
    "faster-whisper": _faster_whisper,
    "gender": _gender,
    "age-gender": _age_gender,
    "classify": _classify,
    "emotion2vec": _lab("Emotion2vecTagger"),
    "brouhaha": _lab("BrouhahaTagger"),
    "penn": _lab("PennTagger"),
    "accent": _lab("AccentTagger"),
}


def build(spec: str) -> Tagger:
    """The tagger of a specification ``NAME[:REST]``.

    Raises:
        ValueError: unknown name, or a package is missing.
    """
    name, _, rest = spec.partition(":")
    if name not in MAKERS:
        raise ValueError(f"unknown tagger {spec!r}: choose among {', '.join(MAKERS)}")
    import torch

    torch.set_num_threads(1)  # processes are the way to more cores
    return MAKERS[name](rest)


def main(arguments: Iterable[str] | None = None) -> int:
    """Command line; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, help="manifest of cuts: .jsonl, .jsonl.gz or an indexed store")
    parser.add_argument("output", type=Path, help="manifest to write, .jsonl or .jsonl.gz")
    parser.add_argument("--taggers", nargs="+", default=["measured"], metavar="TAGGER", help="see above (default: measured)")
    parser.add_argument("--num-jobs", type=int, default=1, help="processes (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="clips heard together (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="values of the source give way to those of the taggers")
    parser.add_argument("--min-confidence", type=float, default=0.0, help="less certain values are recorded, not used (default: %(default)s)")
    parser.add_argument("--max-bad", type=float, default=0.01, help="share of bad clips above which the run fails (default: %(default)s)")
    options = parser.parse_args(None if arguments is None else list(arguments))
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        if options.num_jobs > 1:
            for spec in options.taggers:  # here first: a missing package is a sentence and not a dead worker, and assets are fetched once
                build(spec)
        job = TagJob(
            source=options.input,
            target=options.output,
            taggers=tuple(options.taggers),
            build=build,
            batch=options.batch,
            jobs=options.num_jobs,
            overwrite=options.overwrite,
            min_confidence=options.min_confidence,
            max_bad_fraction=options.max_bad,
        )
        summary = tag_manifest(job)
    except (OSError, ValueError, AssetError) as error:
        print(f"tag_cuts: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("tag_cuts: interrupted; the same command goes on from there", file=sys.stderr)
        return 130
    table = Table("value", "clips", title=f"{summary['clips']} clips, {summary['problems']} problems, {summary['clips_per_second']} clips/s")
    for key, count in summary["values"].items():
        table.add_row(key, str(count))
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
