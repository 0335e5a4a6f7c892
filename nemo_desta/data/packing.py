"""Several rendered rows in one token sequence.

Shape legend: T tokens of a pack, S rows in a pack, P audio spans, Q query slots of a span, C clips.

A pack has no batch axis: rows lie one behind the other, `cu_seqlens_S1` holds their borders (as flash-attention's varlen kernels want them) and
`position_ids_T` restarts at every row, so that a packed row sees exactly what it would see alone.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from nemo_desta.data.conversation import IGNORE, Rendered
from nemo_desta.data.transfer import to_device


@dataclass(frozen=True)
class TokenPack:
    """One forward pass of the backbone.

    Attributes:
        input_ids_T: int64; placeholder ids at the query slots.
        labels_T: int64; the label of a token is the token itself (the shift by one happens in the loss); `IGNORE` without loss.
        position_ids_T: int64, restarting at every row.
        cu_seqlens_S1: int32 [S + 1], borders of the rows, from 0 to T.
        slots_PQ: int64, position in the pack of every query slot.
        clip_of_span_P: int64, which clip of the batch fills a span; rows may share clips.
    """

    input_ids_T: Tensor
    labels_T: Tensor
    position_ids_T: Tensor
    cu_seqlens_S1: Tensor
    slots_PQ: Tensor
    clip_of_span_P: Tensor

    @property
    def num_targets(self) -> int:
        """Tokens with a loss."""
        return int((self.labels_T != IGNORE).sum())

    @property
    def num_tokens(self) -> int:
        return self.input_ids_T.numel()

    def to(self, device: torch.device | str) -> "TokenPack":
        """The same pack on ``device``."""
        return replace(self, **{f.name: to_device(getattr(self, f.name), device) for f in fields(self)})


def pack(rows: Sequence[Rendered], clips_of_rows: Sequence[Sequence[int]], num_queries: int) -> TokenPack:
    """Lay rows one behind the other.

    Args:
        rows: rendered conversations; their audio spans have `num_queries` slots.
        clips_of_rows: for every row, the index of the clip of each of its spans.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError("cannot pack zero rows")
    borders, slots, clips = [0], [], []
    for row, row_clips in zip(rows, clips_of_rows, strict=True):
        assert len(row.audio_spans) == len(row_clips)
        for (start, length), clip in zip(row.audio_spans, row_clips, strict=True):
            assert length == num_queries
            slots.append(range(borders[-1] + start, borders[-1] + start + length))
            clips.append(clip)
        borders.append(borders[-1] + len(row.input_ids))
    return TokenPack(
        input_ids_T=torch.tensor([t for row in rows for t in row.input_ids]),
        labels_T=torch.tensor([t for row in rows for t in row.labels]),
        position_ids_T=torch.cat([torch.arange(len(row.input_ids)) for row in rows]),
        cu_seqlens_S1=torch.tensor(borders, dtype=torch.int32),
        slots_PQ=torch.tensor([list(s) for s in slots], dtype=torch.int64).view(len(slots), num_queries),
        clip_of_span_P=torch.tensor(clips, dtype=torch.int64),
    )


def left_padded(rows: Sequence[Rendered], clips_of_rows: Sequence[Sequence[int]], num_queries: int) -> TokenPack:
    """Prompts for generation: as `pack`, each row filled up at its beginning to the longest; positions are -1 in the filling."""
    width = max(len(row.input_ids) for row in rows)
    pads = [width - len(row.input_ids) for row in rows]
    filled = [
        Rendered([0] * n + row.input_ids, [(start + n, length) for start, length in row.audio_spans], [], [IGNORE] * width, row.placeholder_id)
        for n, row in zip(pads, rows, strict=True)
    ]
    positions = torch.cat([torch.arange(width) - n for n in pads]).clamp(min=-1)
    return replace(pack(filled, clips_of_rows, num_queries), position_ids_T=positions)


def pad_pack(pack: TokenPack, length: int) -> TokenPack:
    """The same pack with filling at its end: a row of its own, which nothing sees and which has no label."""
    missing = length - pack.num_tokens
    assert missing >= 0, f"a pack of {pack.num_tokens} tokens does not fit {length}"
    if missing == 0:
        return pack
    ids, device = pack.input_ids_T, pack.input_ids_T.device
    return replace(
        pack,
        input_ids_T=torch.cat([ids, ids.new_zeros(missing)]),
        labels_T=torch.cat([pack.labels_T, pack.labels_T.new_full((missing,), IGNORE)]),
        position_ids_T=torch.cat([pack.position_ids_T, torch.arange(missing, device=device)]),
        cu_seqlens_S1=torch.cat([pack.cu_seqlens_S1, pack.cu_seqlens_S1.new_tensor([length])]),
    )


def empty_pack(length: int, device: torch.device | str = "cpu") -> TokenPack:
    """Nothing but filling: for a process that must take part in a step without having rows for it."""
    nothing = torch.zeros(0, dtype=torch.int64, device=device)
    start = torch.zeros(1, dtype=torch.int32, device=device)
    return pad_pack(TokenPack(nothing, nothing, nothing, start, nothing.view(0, 1), nothing), length)


def split_by_tokens(lengths: Iterable[int], limit: int) -> Iterator[list[int]]:
    """Indices of consecutive rows that fit ``limit`` tokens together; every row goes somewhere, in order, exactly once.

    Rows keep their order, so that the micro-batches are a pure function of the step's rows. A row longer than the limit stands alone.
    """
    group: list[int] = []
    total = 0
    for index, length in enumerate(lengths):
        if group and total + length > limit:
            yield group
            group, total = [], 0
        group.append(index)
        total += length
    if group:
        yield group
