"""What a finished run of target generation left on the disk, to be looked at: the run's one set, or some parts of a run on Ray."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lhotse.cut import Cut

from nemo_desta.corpora.manifests import read_cuts
from nemo_desta.data.conversation import Tokenizer
from nemo_desta.data.supervision import self_generated
from nemo_desta.jsonl import text_lines

LOOKED_AT = 8  # parts of a run on Ray from which a sample is drawn, so that five million rows need not be read for a hundred


@dataclass(frozen=True)
class Written:
    """Cuts with their targets, answers that were rejected, and the cuts that were asked about.

    Attributes:
        values: vocabulary of the whole set; None where it must be read from the cuts.
        further: manifest of clips that rows about several name besides their own; None = they are among `asked`.
    """

    kept: Path
    rejected: Path
    asked: Callable[[], Iterable[Cut]]
    values: Mapping[str, Sequence[str]] | None = None
    further: Path | None = None

    def rejected_lines(self) -> list[dict[str, Any]]:
        """The rejected answers."""
        return [json.loads(line) for line in text_lines(self.rejected)] if self.rejected.exists() else []

    def cuts(self, names: Iterable[str]) -> dict[str, Cut]:
        """The cuts of these ids, as far as there are any."""
        from nemo_desta.manifests.records import to_cut
        from nemo_desta.manifests.sources import Problems, file_records

        wanted = set(names)
        found = {cut.id: cut for cut in self.asked() if cut.id in wanted} if wanted else {}
        if self.further is not None and self.further.exists() and wanted - set(found):
            found |= {r["id"]: to_cut(r) for r in file_records(self.further, Problems()) if r["id"] in wanted and r["id"] not in found}
        return found


def written(targets: Path, corpus: Path) -> list[Written]:
    """The sets of a finished run: one, or of a run on Ray `LOOKED_AT` parts, drawn by a hash.

    Args:
        targets: its folder ``targets``.
        corpus: manifest of the cuts, where the run did not read another one on Ray.

    Raises:
        FileNotFoundError: no finished run there.
    """
    from nemo_desta.generation.parts import INPUTS, Inputs
    from nemo_desta.generation.paths import Paths
    from nemo_desta.generation.plan import draw
    from nemo_desta.generation.runner import read_json
    from nemo_desta.generation.several import FURTHER
    from nemo_desta.manifests.store import is_store

    whole = targets / "cuts_train.jsonl.gz"
    if whole.exists():
        return [Written(whole, targets / "rejected.jsonl", lambda: read_cuts(corpus))]
    known = read_json(targets / INPUTS)
    if known is None or not is_store(targets):
        raise FileNotFoundError(f"neither {whole} nor a finished store is there: run examples/generate_targets.py first")
    inputs = Inputs(**known)
    chosen = sorted(inputs.parts(), key=lambda part: draw("looked at", part.number))[:LOOKED_AT]
    paths = [Paths(targets.parent, part.number) for part in chosen]
    return [Written(p.cuts, p.targets / "rejected.jsonl", part.cuts, inputs.values, targets / FURTHER) for p, part in zip(paths, chosen, strict=True)]


def asked_rows(one: Written, pool: Any, generation: Any, tokenizer: Tokenizer) -> list[Any]:
    """The rows about one clip that were asked in a part of a run on Ray, kept or rejected; second turns are left out."""
    from nemo_desta.generation.plan import make_plan

    kept = [(cut.id, row) for cut in read_cuts(one.kept) for row in self_generated(cut)]
    rejected = [line for line in one.rejected_lines() if not line.get("other_clips")]
    single = [(cut, row.id, row.custom["prompt_id"]) for cut, row in kept if row.custom is not None and not row.custom.get("clips")]
    rows = [*single, *((line["cut_id"], line["row_id"], line["prompt_id"]) for line in rejected)]
    names, pairs = {row for _, row, _ in rows}, list(dict.fromkeys((cut, prompt) for cut, _, prompt in rows))
    return [row for row in make_plan(list(one.asked()), pool, generation, tokenizer, pairs) if row.row_id in names]
