"""Second turns: the backbone is asked something else about the same clip, behind its own first answer.

A follow-up joins two rows of the plan that are about one clip: the messages of the first, its answer as the assistant's turn, the prompt of the second. Only
answers that pass the filters are built upon. Rendering, journal and filters are those of every other row.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from nemo_desta.data.conversation import Tokenizer, render_text
from nemo_desta.data.supervision import Message
from nemo_desta.generation.checks import check_share
from nemo_desta.generation.engines.base import Completion
from nemo_desta.generation.plan import TargetRow


def follow_ups(
    plan: Sequence[TargetRow], answers: Mapping[str, Completion], reasons: Mapping[str, str | None], fraction: float, tokenizer: Tokenizer
) -> list[TargetRow]:
    """Rows with two turns, in the order of the plan; a pure function of its arguments.

    Args:
        answers: row id -> answer to the first question.
        reasons: row id -> filter that objected to it, or None.
        fraction: share of the rows that are followed up, where their clip is asked something else too.

    Raises:
        ValueError: the fraction is outside [0, 1].
    """
    check_share("multi_turn_fraction", fraction)
    of_clip: dict[str, list[TargetRow]] = defaultdict(list)
    for row in plan:
        of_clip[row.cut_id].append(row)
    chosen = []
    for row in plan:
        others = [other for other in of_clip[row.cut_id] if other.prompt.id != row.prompt.id]
        if others and reasons[row.row_id] is None and _hash("turn", row.row_id) < fraction * 2**64:
            second = min(others, key=lambda other: _hash(row.row_id, other.prompt.id))
            chosen.append(_joined(row, answers[row.row_id].text, second, tokenizer))
    return chosen


def _joined(first: TargetRow, answer: str, second: TargetRow, tokenizer: Tokenizer) -> TargetRow:
    turns: list[Message] = [{"role": "assistant", "content": answer}, {"role": "user", "content": second.prompt.text}]
    messages = [*first.messages, *turns]
    # Focused seeds hold one attribute each: the follow-up needs both.
    seed = first.seed if first.seed == second.seed else f"{first.seed} {second.seed}"
    row_id = hashlib.sha256(f"{first.row_id}\x1f{second.prompt.id}\x1fturn2".encode()).hexdigest()[:16]
    return replace(second, row_id=row_id, messages=messages, seed=seed, text=render_text(messages, tokenizer, [seed]))


def _hash(*parts: str) -> int:
    return int.from_bytes(hashlib.sha256("\x1f".join(parts).encode()).digest()[:8], "big")
