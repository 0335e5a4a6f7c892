"""All corpora of a recipe together: one training and one test manifest, with the credits and a manifest of what is in them."""

import hashlib
import json
import logging
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_desta import assets
from nemo_desta.corpora import REGISTRY, CorpusRecipe, NoParentsError
from nemo_desta.corpora.build import BuildSettings, corpus_summary
from nemo_desta.corpora.manifests import write_atomic, write_cuts
from nemo_desta.corpora.splits import SPLITS, check_disjoint
from nemo_desta.provenance import manifest as provenance_manifest
from nemo_desta.provenance import plain, write_json_atomic

if TYPE_CHECKING:
    from lhotse import CutSet, MonoCut

    from nemo_desta.config import CorpusConfig
    from nemo_desta.seed.transcribe import Transcriber

logger = logging.getLogger(__name__)

_SMALL_SOUNDS = ("scratch", "opensfx", "minetest")
_SPEECH = ("asterisk", "amazon_queen", "fillets")
_MUSIC = ("rendered_music", "rendered_instruments")
_SYNTHETIC = ("controlled_speech", "noisy_speech")
STAND_IN = "sound_like"  # joins a tier of which no sound corpus can be had
_LEAN = (*_SPEECH, *_SMALL_SOUNDS, "gcompris", "lincity", "simutrans", "homedecor", *_MUSIC)
_DEFAULT = (*_LEAN, "tuxpaint", "searchandrescue")
_CI_OPTIONS: dict[str, dict[str, Any]] = {
    "asterisk": {"languages": ["en"]},
    "rendered_music": {"clips": 39},
    "rendered_instruments": {"clips": 46},
    "controlled_speech": {"engines": ["espeak"], "espeak_clips": 80},
    "noisy_speech": {"clips": 40},
}
TIERS: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "ci": tuple((name, _CI_OPTIONS.get(name, {})) for name in ("asterisk", *_SMALL_SOUNDS, *_MUSIC, *_SYNTHETIC)),
    "lean": tuple((name, {}) for name in (*_LEAN, *_SYNTHETIC)),
    "default": tuple((name, {}) for name in (*_DEFAULT, *_SYNTHETIC)),
    "full": tuple((name, {}) for name in (*_DEFAULT, "festvox_ru", "hedgewars", *_SYNTHETIC)),
}
"""Corpora and options of a tier, for configurations that name no sources of their own."""


@dataclass(frozen=True)
class Source:
    """A corpus of the mixture with its options and the assets it is made from."""

    recipe: CorpusRecipe
    options: Mapping[str, Any]

    @property
    def assets(self) -> tuple[str, ...]:
        """Names for `nemo_desta.assets.fetch`."""
        return self.recipe.assets_for(self.options)

    @property
    def variant(self) -> str:
        """The options as text."""
        return json.dumps(self.options, sort_keys=True)

    def assets_from(self, have: Collection[str]) -> tuple[str, ...]:
        """The assets, each replaced by an alternative with the same content where only that can be had."""
        return tuple(next((n for n in (name, *assets.ALTERNATIVES.get(name, ())) if n in have), name) for name in self.assets)

    def missing(self, have: Collection[str]) -> list[str]:
        """Assets that are not among those that can be had, nor any alternative of them."""
        return [name for name in self.assets_from(have) if name not in have]

    def reduced(self, have: Collection[str]) -> "Source":
        """The same corpus with options that need no more than can be had, where its recipe knows how."""
        return replace(self, options=self.recipe.reduce(self.options, have)) if self.recipe.reduce else self


@dataclass
class Plan:
    """What of a configuration can be made on a machine."""

    sources: list[Source] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)  # corpus -> what it misses
    reduced: dict[str, list[str]] = field(default_factory=dict)  # corpus that is made with less -> what it misses


def plan(cfg: "CorpusConfig", have: Collection[str]) -> Plan:
    """Divide the corpora of a configuration by the assets that can be had.

    Args:
        cfg: The configuration.
        have: Names of the assets that can be had.
    """
    result = Plan()
    for source in sources_of(cfg):
        reduced = source.reduced(have)
        if missing := reduced.missing(have):
            result.left_out[source.recipe.name] = missing
            continue
        if reduced.options != source.options:
            result.reduced[source.recipe.name] = source.missing(have)
        result.sources.append(reduced)
    if not cfg.sources and not any(source.recipe.domain == "sound" for source in result.sources):
        stand_in = Source(REGISTRY[STAND_IN], {})
        if missing := stand_in.missing(have):
            result.left_out[STAND_IN] = missing
        else:  # before the derived corpora, which are made from those before them
            result.sources.insert(next((i for i, s in enumerate(result.sources) if s.recipe.derived), len(result.sources)), stand_in)
    return result


def sources_of(cfg: "CorpusConfig") -> list[Source]:
    """The corpora of a configuration: those it names, else those of its tier.

    Raises:
        ValueError: An unknown corpus or tier, or a corpus that is named twice.
    """
    if not cfg.sources and cfg.tier not in TIERS:
        raise ValueError(f"corpus.tier={cfg.tier!r} is not known; choose among {list(TIERS)}, or name corpus.sources")
    named = [(source.name, plain(source.options)) for source in cfg.sources] or list(TIERS[cfg.tier])
    unknown = sorted({name for name, _ in named} - REGISTRY.keys())
    twice = [name for name, n in Counter(name for name, _ in named).items() if n > 1]
    if unknown or twice:
        problem = f"unknown: {unknown}" if unknown else f"named twice: {twice}"
        raise ValueError(f"corpus.sources, {problem}; the corpora are {sorted(REGISTRY)}")
    return [Source(REGISTRY[name], options) for name, options in named]


def required_assets(cfg: "CorpusConfig") -> list[str]:
    """Assets that all corpora of a configuration are made from, each once; alternatives and stand-ins for what this machine cannot get."""
    wanted = sources_of(cfg)
    names = {name for source in (*wanted, Source(REGISTRY[STAND_IN], {})) for name in source.assets}
    have = assets.available([*names, *(other for name in names for other in assets.ALTERNATIVES.get(name, ()))])
    stand_ins = [source for source in plan(cfg, have).sources if source.recipe.name == STAND_IN]
    return list(dict.fromkeys(name for source in (*wanted, *stand_ins) for name in source.assets_from(have)))


def is_current(cfg: "CorpusConfig", corpus_root: str | Path, available: Collection[str]) -> bool:
    """Whether the corpus on disk is what the configuration asks for, as far as the available assets allow.

    Args:
        cfg: The configuration.
        corpus_root: Folder of the corpora.
        available: Names of the assets that can be had on this machine.
    """
    root = Path(corpus_root)
    manifest = read_manifest(root)
    if manifest is None or manifest.get("fingerprint") != _fingerprint(cfg, root):
        return False
    now = plan(cfg, available)
    # A corpus that is there stays, even where its assets have gone; one that was left out or reduced is made as soon as it can be.
    # A derived one misses no asset but parents: it follows what was left out besides it.
    left_out = {name for name in manifest["left_out"] if not REGISTRY[name].derived}
    unchanged = left_out <= now.left_out.keys() and set(manifest["reduced"]) <= {*now.reduced, *now.left_out}
    return unchanged and all((root / f"cuts_{split}.jsonl.gz").is_file() for split in SPLITS)


def read_manifest(corpus_root: str | Path) -> dict[str, Any] | None:
    """Content of ``manifest.json``, or None where there is none."""
    try:
        return json.loads((Path(corpus_root) / "manifest.json").read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def prepare_mixture(
    cfg: "CorpusConfig", corpus_root: str | Path, asset_dirs: Mapping[str, Path], transcriber: "Transcriber | None" = None
) -> tuple["CutSet", "CutSet"]:
    """Build every corpus of a configuration and write the joint manifests.

    Below ``corpus_root`` it writes a folder per corpus, ``cuts_train.jsonl.gz``, ``cuts_test.jsonl.gz``, ``ATTRIBUTION.md``, the packages'
    copyright files and, last, ``manifest.json``. Whatever is finished already is not done again.

    Args:
        cfg: The configuration.
        corpus_root: Where to write.
        asset_dirs: Directories of the assets that could be fetched. A corpus with a missing asset is left out, with a line in the log.
        transcriber: The one that ``cfg.transcribe`` names; it gives speech without words its text.

    Returns:
        Training cuts and test cuts, in the order of the sources.

    Raises:
        ValueError: A mistake in the configuration, a corpus with too many bad clips, or nothing to train on.
        OSError: The disk is full or not writable; another run goes on from what is finished.
    """
    from lhotse import CutSet

    from nemo_desta.seed.transcribe import transcribe

    if (cfg.transcribe is None) != (transcriber is None):
        raise ValueError(f"corpus.transcribe={cfg.transcribe} and the transcriber given ({type(transcriber).__name__}) do not go together: give both or none")
    root = Path(corpus_root)
    root.mkdir(parents=True, exist_ok=True)
    by_split: dict[str, list[MonoCut]] = {split: [] for split in SPLITS}
    possible = plan(cfg, asset_dirs.keys())
    _log_plan(possible)
    done: list[Source] = []
    for source in possible.sources:
        name = source.recipe.name
        logger.info("corpus %s: %s", name, source.recipe.description)
        try:
            cuts_of_source = _prepare_source(source, cfg, root, asset_dirs, [s.recipe.name for s in done])
        except NoParentsError as error:
            possible.left_out[name] = ["clean speech of a corpus before it"]
            logger.warning("corpus %s is left out: %s", name, error)
            continue
        for cut in cuts_of_source:
            by_split[cut.custom["split"]].append(cut)
        done.append(source)
    if not by_split["train"]:
        raise ValueError(f"no corpus of the configuration gave a training clip; left out: {possible.left_out or 'none'}")
    check_disjoint((cut.custom["group"], split) for split, cuts in by_split.items() for cut in cuts)
    if cfg.transcribe is not None and transcriber is not None:
        journal = root / "transcripts.jsonl"
        by_split = {split: transcribe(cuts, transcriber, source=Path(cfg.transcribe).name, journal=journal) for split, cuts in by_split.items()}
    for split, cuts in by_split.items():
        write_cuts(root / f"cuts_{split}.jsonl.gz", cuts)
    _write_credits(root, done, by_split, asset_dirs)
    _write_manifest(cfg, root, done, possible, by_split)
    return CutSet.from_cuts(by_split["train"]), CutSet.from_cuts(by_split["test"])


def ensure_mixture(cfg: "CorpusConfig", corpus_root: str | Path, load_transcriber: "Callable[[str], Transcriber]") -> bool:
    """Fetch what a configuration's corpora are made from, and build what is not up to date.

    Args:
        cfg: The configuration.
        corpus_root: Where the corpora lie.
        load_transcriber: Loads the model that ``cfg.transcribe`` names, where it names one and there is something to build.

    Returns:
        Whether anything had to be built.

    Raises:
        ValueError, OSError: See :func:`prepare_mixture`.
    """
    obtainable = assets.available(required_assets(cfg))
    if is_current(cfg, Path(corpus_root), obtainable):
        logger.info("%s is up to date", corpus_root)
        return False
    prepare_mixture(cfg, corpus_root, assets.fetch(obtainable), load_transcriber(cfg.transcribe) if cfg.transcribe else None)
    return True


def _log_plan(possible: Plan) -> None:
    for name, missing in possible.left_out.items():
        logger.warning("corpus %s is left out: its assets cannot be had here (%s)", name, ", ".join(missing))
    for source in possible.sources:
        if missing := possible.reduced.get(source.recipe.name, []):
            logger.warning("corpus %s is made without %s, with the options %s", source.recipe.name, ", ".join(missing), dict(source.options))
        if source.recipe.name == STAND_IN:
            logger.warning("corpus %s stands in for the sound corpora, none of which can be had here", STAND_IN)


def _prepare_source(source: Source, cfg: "CorpusConfig", root: Path, asset_dirs: Mapping[str, Path], before: list[str]) -> "CutSet":
    """Build one corpus; a derived one is told which corpora it is made from, and made again when they change."""
    options, variant = dict(source.options), source.variant
    if source.recipe.derived:
        options.setdefault("corpora", before)
        variant = json.dumps([options, [corpus_summary(name, root)["sha256"] for name in before]], sort_keys=True)
    return source.recipe.prepare(asset_dirs, root, settings=BuildSettings.from_config(cfg, variant=variant), **options)


def _fingerprint(cfg: "CorpusConfig", root: Path) -> str:
    """Of everything that decides what the mixture holds, and of its place (cuts hold absolute paths)."""
    sources = [(s.recipe.name, BuildSettings.from_config(cfg, variant=s.variant).fingerprint(s.recipe.name)) for s in sources_of(cfg)]
    transcripts = [cfg.transcribe] if cfg.transcribe else []
    return hashlib.sha256(json.dumps([str(root.resolve()), sources, *transcripts]).encode()).hexdigest()[:16]


def _counts(cuts: Iterable["MonoCut"]) -> dict[str, Any]:
    """Clips and hours, in all and by domain."""
    clips: Counter[str] = Counter()
    seconds: dict[str, float] = defaultdict(float)
    for cut in cuts:
        clips[cut.custom["domain"]] += 1
        seconds[cut.custom["domain"]] += cut.duration
    hours = {domain: round(s / 3600, 4) for domain, s in sorted(seconds.items())}
    return {"clips": clips.total(), "hours": round(sum(seconds.values()) / 3600, 4), "clips_by_domain": dict(sorted(clips.items())), "hours_by_domain": hours}


def _write_manifest(cfg: "CorpusConfig", root: Path, done: list[Source], possible: Plan, by_split: Mapping[str, list["MonoCut"]]) -> None:
    corpora = {s.recipe.name: {"options": dict(s.options), "assets": list(s.assets), **corpus_summary(s.recipe.name, root)} for s in done}
    inputs = {f"cuts_{split}": root / f"cuts_{split}.jsonl.gz" for split in SPLITS}
    extra = {
        "fingerprint": _fingerprint(cfg, root),
        "corpora": corpora,
        "left_out": possible.left_out,
        "reduced": possible.reduced,
        "splits": {split: _counts(cuts) for split, cuts in by_split.items()},
        "skipped": dict(sum((Counter(corpus["skipped"]) for corpus in corpora.values()), Counter())),
    }
    write_json_atomic(root / "manifest.json", provenance_manifest(cfg, inputs, **extra))


def _write_credits(root: Path, done: list[Source], by_split: Mapping[str, list["MonoCut"]], asset_dirs: Mapping[str, Path]) -> None:
    """``ATTRIBUTION.md``, and a copy of each package's copyright file beside it."""
    credits: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    for cuts in by_split.values():
        for cut in cuts:
            credits[cut.custom["dataset"]][cut.custom["license"], cut.custom["attribution"]] += 1
    lines = [
        "# Attribution",
        "",
        "The clips below this folder were made from the packages named here: decoded, mixed to one channel, resampled to 16 kHz, cut to at most",
        "30 seconds, or rendered from the packages' data. Each clip's own licence, credit and origin stand in its manifest entry (`license`,",
        "`attribution`, `origin`). Keep this file with the clips.",
        "",
    ]
    for source in done:
        name = source.recipe.name
        lines += [f"## {name}", "", f"{source.recipe.description[0].upper()}{source.recipe.description[1:]}.", ""]
        lines += [f"* Package `{asset}`{_copy_copyright(root, asset, asset_dirs[asset])}" for asset in source.assets_from(asset_dirs.keys())]
        lines += [f"* {licence} ({n} clips): {credit}" for (licence, credit), n in sorted(credits[name].items())]
        lines.append("")
    write_atomic(root / "ATTRIBUTION.md", "\n".join(lines))


def _copy_copyright(root: Path, asset: str, directory: Path) -> str:
    """Copy the copyright and licence files of an asset; the words that point to them."""
    found = sorted(Path(directory).glob("usr/share/doc/*/copyright")) or sorted(
        path for pattern in ("LICEN[CS]E*", "*/LICEN[CS]E*", "*.dist-info/licenses/*") for path in Path(directory).glob(pattern) if path.is_file()
    )
    names = []
    for i, path in enumerate(found):
        target = root / "copyright" / (f"{asset}.txt" if i == 0 else f"{asset}-{i}.txt")
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
        names.append(f"`copyright/{target.name}`")
    return f": {', '.join(names)}" if names else ""


def summary_table(manifest: Mapping[str, Any]) -> str:
    """The counts of a manifest as a plain-text table, one corpus a line."""
    line: Callable[..., str] = "{:<22}{:>8}{:>8}{:>8}{:>9}   {}".format
    rows = [line("corpus", "clips", "train", "test", "hours", "skipped")]
    for name, corpus in manifest["corpora"].items():
        skipped = ", ".join(f"{reason} {n}" for reason, n in corpus["skipped"].items()) or "-"
        rows.append(line(name, corpus["clips"], corpus["train"], corpus["test"], f"{corpus['hours']:.2f}", skipped))
    rows += [line(name, "-", "-", "-", "-", f"left out, needs {', '.join(assets)}") for name, assets in manifest["left_out"].items()]
    train, test = (manifest["splits"][split] for split in SPLITS)
    rows.append(line("all", train["clips"] + test["clips"], train["clips"], test["clips"], f"{train['hours'] + test['hours']:.2f}", ""))
    for domain in sorted(train["clips_by_domain"] | test["clips_by_domain"]):
        clips = [split["clips_by_domain"].get(domain, 0) for split in (train, test)]
        hours = sum(split["hours_by_domain"].get(domain, 0.0) for split in (train, test))
        rows.append(line(f"  {domain}", sum(clips), *clips, f"{hours:.2f}", ""))
    return "\n".join(rows)
