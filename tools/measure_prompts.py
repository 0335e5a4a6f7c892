"""Which wordings of an attribute question does a backbone answer rightly, for every value of the attribute? The measure behind weak_for_small.yaml.

    python tools/measure_prompts.py --llm asset://smollm2-135m-instruct --cuts runs/mini/corpus/cuts_train.jsonl.gz --attributes mode playing

Every wording is asked about every value (at most --values of them, drawn by a hash) behind the focused description of that value alone, greedily, and judged
by the rule that filters targets. Prints one line a wording, worst first; those below the bar as entries for nemo_desta/seed/weak_for_small.yaml.
The bar: of attributes with at most four values every value right; of others --share of the values.

Exit code: 0; 1 for a problem that the message names.
"""

import argparse
import hashlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nemo_desta.assets import AssetError, resolve_model
from nemo_desta.config import Precision
from nemo_desta.corpora.manifests import read_cuts
from nemo_desta.data.conversation import render_text
from nemo_desta.generation.engines.base import Completion, Engine, Sampling
from nemo_desta.generation.filters import gives
from nemo_desta.generation.plan import make_messages
from nemo_desta.seed.attributes import attributes_of
from nemo_desta.seed.describe import statement
from nemo_desta.seed.prompts import Prompt, load_pool

SYSTEM_PROMPT = "Focus on the audio clips and instructions. Answer in English in one short sentence."  # of conf/desta25_mini.yaml
FEW = 4  # values up to which every one must be right


@dataclass(frozen=True)
class Measured:
    """A wording and its answers by value."""

    prompt: Prompt
    right: Mapping[str, bool]
    answers: Mapping[str, str]

    @property
    def share(self) -> float:
        return sum(self.right.values()) / len(self.right)

    def is_weak(self, share: float) -> bool:
        """Whether a small backbone is better not asked this."""
        return self.share < (1.0 if len(self.right) <= FEW else share)

    def entry(self) -> str:
        """The line of weak_for_small.yaml."""
        return f"- {self.prompt.id}  # {sum(self.right.values())}/{len(self.right)} {self.prompt.text}"


def values_of(cuts: Iterable[object], attributes: Sequence[str], limit: int) -> dict[str, list[str]]:
    """Values of each attribute that occur in the cuts, at most `limit` by a hash of them.

    Raises:
        ValueError: an attribute that no cut has.
    """
    found: dict[str, set[str]] = {name: set() for name in attributes}
    for cut in cuts:
        stated = attributes_of(cut)  # type: ignore[arg-type]
        for name in attributes:
            if name in stated:
                found[name].add(stated[name])
    if missing := [name for name, values in found.items() if not values]:
        raise ValueError(f"no cut has {', '.join(missing)}: choose other --attributes, or other --cuts")
    return {name: sorted(values, key=lambda v: hashlib.sha256(v.encode()).digest())[:limit] for name, values in found.items()}


def measure(engine: Engine, values: Mapping[str, Sequence[str]], system_prompt: str, batch: int = 64) -> list[Measured]:
    """Ask every wording of the shipped pool about every value; the worst first."""
    cases = [(prompt, value) for prompt in load_pool() if prompt.clips == 1 and prompt.attribute in values for value in values[prompt.attribute or ""]]
    texts = [
        render_text(make_messages(prompt.text, system_prompt), engine.tokenizer, [f"{statement(prompt.attribute or '', value)}."]) for prompt, value in cases
    ]
    answers: list[Completion] = []
    for start in range(0, len(texts), batch):
        part = texts[start : start + batch]
        answers += engine.generate(part, [str(start + i) for i in range(len(part))])
    by_prompt: dict[Prompt, dict[str, str]] = {}
    for (prompt, value), answer in zip(cases, answers, strict=True):
        by_prompt.setdefault(prompt, {})[value] = answer.text
    measured = [
        Measured(prompt, {value: gives(text, prompt.attribute or "", value, values[prompt.attribute or ""]) for value, text in said.items()}, said)
        for prompt, said in by_prompt.items()
    ]
    return sorted(measured, key=lambda m: (m.prompt.attribute or "", m.share))


def main(arguments: Iterable[str] | None = None) -> int:
    """Command line; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llm", required=True, help="the backbone (asset://, hf:// or a directory)")
    parser.add_argument("--cuts", type=Path, required=True, help="manifest whose values are asked for")
    parser.add_argument("--attributes", nargs="+", required=True)
    parser.add_argument("--values", type=int, default=6, help="values of an attribute at most (default: %(default)s)")
    parser.add_argument("--share", type=float, default=0.6, help="of the values of an attribute with many (default: %(default)s)")
    parser.add_argument("--system-prompt", default=SYSTEM_PROMPT)
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--verbose", action="store_true", help="show every answer")
    options = parser.parse_args(None if arguments is None else list(arguments))
    try:
        values = values_of(read_cuts(options.cuts), options.attributes, options.values)
        from nemo_desta.generation.engines.transformers import TransformersEngine

        engine = TransformersEngine(resolve_model(options.llm), Sampling(0.0, 1.0, options.max_new_tokens, 0), Precision.auto)
        measured = measure(engine, values, options.system_prompt)
    except (OSError, ValueError, AssetError) as error:
        print(f"measure_prompts: {error}", file=sys.stderr)
        return 1
    for found in measured:
        print(found.entry() if found.is_weak(options.share) else f"  {found.entry()[2:]}")
        if options.verbose:
            for value, answer in found.answers.items():
                print(f"      {'right' if found.right[value] else 'WRONG'} {value}: {answer!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
