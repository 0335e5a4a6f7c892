"""The same rows in every set: what all writers could answer, each in the words of its writer."""

import hashlib
import logging
from collections.abc import Iterable, Mapping

from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.utils import fastcopy

from nemo_desta.config import DataConfig
from nemo_desta.corpora.manifests import read_cuts, write_cuts
from nemo_desta.data.conversation import AudioLayout, Tokenizer, render
from nemo_desta.data.dataset import fit
from nemo_desta.data.supervision import self_generated, source_supervision
from nemo_desta.generation.runner import generate_targets
from nemo_desta.generation.template_targets import template_targets
from nemo_desta.models.build import layout_of, load_tokenizer
from nemo_desta.provenance import manifest, sha256_file, write_json_atomic
from nemo_desta.study.arms import Paths, share, writer_config
from nemo_desta.study.config import StudyConfig, Writer, own_set

logger = logging.getLogger(__name__)


def write_targets(cfg: StudyConfig, paths: Paths) -> dict[str, int]:
    """Let every writer answer, and keep the rows that all of them have; rows that a filter rejected for one writer are missing for all.

    Returns:
        ``{"rows": of every arm, "answered_by_NAME": rows of each writer}``.

    Raises:
        ValueError: the sets have no row in common.
    """
    written = {name: _written(cfg, name, paths) for name, chosen in cfg.targets.items() if chosen.writer is Writer.llm}
    own = own_set(cfg)
    assert own is not None
    sets = {
        name: written[name] if chosen.writer is Writer.llm else CutSet.from_cuts(template_targets(written[own], chosen.voice))
        for name, chosen in cfg.targets.items()
    }
    tokenizer, layout = load_tokenizer(cfg.base.model.llm), layout_of(cfg.base.model, cfg.base.data.max_transcript_tokens)
    rows = {name: trainable(cuts, tokenizer, layout, cfg.base.data) for name, cuts in sets.items()}
    common = common_rows(rows, cfg.rows)
    for name, cuts in sets.items():
        path = paths.targets(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_cuts(path, only(cuts, common))
    counts = {"rows": len(common)} | {f"answered_by_{name}": len(ids) for name, ids in rows.items()}
    inputs = {name: paths.writer(name) / "targets" / "manifest.json" for name in written}
    hashes = {name: sha256_file(paths.targets(name)) for name in sets}
    write_json_atomic(paths.root / "targets" / "manifest.json", manifest(cfg, inputs, counts=counts, sha256=hashes))
    logger.info("targets: %d rows in every set (%s)", len(common), ", ".join(f"{name} {len(ids)}" for name, ids in rows.items()))
    return counts


def _written(cfg: StudyConfig, name: str, paths: Paths) -> CutSet:
    share(paths, paths.writer(name))
    return read_cuts(generate_targets(writer_config(cfg, name, paths))).to_eager()


def trainable(cuts: Iterable[Cut], tokenizer: Tokenizer, layout: AudioLayout, data: DataConfig) -> set[str]:
    """Ids of the rows about one clip that are not too long to train on, or can be cut: a row that one arm skips, all must skip."""
    found = set()
    for cut in cuts:
        for row in self_generated(cut):
            custom = row.custom or {}
            if custom.get("clips"):
                continue
            text = source_supervision(cut).text
            rendered = render(custom["messages"], tokenizer, layout, transcripts=[text], response=(row.text or "").strip())
            try:
                fit(rendered, data.max_tokens, data.overlong)
            except ValueError:
                continue
            found.add(row.id)
    return found


def common_rows(rows: Mapping[str, set[str]], limit: int) -> set[str]:
    """Ids of the rows that all sets have; of these the first `limit` by a hash of their ids (0 = all).

    Raises:
        ValueError: there are none.
    """
    common = set.intersection(*rows.values())
    if not common:
        counts = ", ".join(f"{name} {len(ids)}" for name, ids in rows.items())
        raise ValueError(f"the sets of targets have no row in common ({counts}): their writers must read the same corpus, prompts and seed")
    ranked = sorted(common, key=lambda row: hashlib.sha256(row.encode()).digest())
    return set(ranked[:limit] if limit else ranked)


def only(cuts: Iterable[Cut], wanted: set[str]) -> Iterable[Cut]:
    """The cuts with the wanted rows alone, in their order; cuts without any are left out."""
    for cut in cuts:
        rows = [row for row in self_generated(cut) if row.id in wanted]
        if rows:
            sources = [s for s in cut.supervisions if s not in self_generated(cut)]
            yield fastcopy(cut, supervisions=[*sources, *rows])
