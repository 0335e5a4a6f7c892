"""Packing loses nothing, and a packed row is computed as if it were alone."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from nemo_desta.data.conversation import Rendered
from nemo_desta.data.packing import empty_pack, left_padded, pack, pad_pack, split_by_tokens


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 60))
def test_every_row_is_in_exactly_one_group_and_groups_fit(lengths, limit):
    groups = list(split_by_tokens(lengths, limit))
    assert [i for group in groups for i in group] == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in group) <= limit or len(group) == 1 for group in groups)


def test_pack_knows_borders_positions_and_slots():
    a = Rendered([9, 7, 7, 1, 2], [(1, 2)], [(3, 0)], [-100, -100, -100, -100, 2], 7)
    b = Rendered([7, 7, 3, 4], [(0, 2)], [(2, 1)], [-100, -100, -100, 4], 7)
    packed = pack([a, b], [[0], [0]], num_queries=2)
    assert packed.input_ids_T.tolist() == [9, 7, 7, 1, 2, 7, 7, 3, 4]
    assert packed.position_ids_T.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert packed.cu_seqlens_S1.tolist() == [0, 5, 9]
    assert packed.slots_PQ.tolist() == [[1, 2], [5, 6]]
    assert packed.clip_of_span_P.tolist() == [0, 0]
    assert packed.num_targets == 2
    assert (packed.input_ids_T[packed.slots_PQ] == 7).all()
    assert packed.cu_seqlens_S1.dtype == torch.int32


def test_filling_is_a_row_without_labels():
    row = Rendered([9, 7, 1], [(1, 1)], [(2, 0)], [-100, -100, 1], 7)
    padded = pad_pack(pack([row], [[0]], num_queries=1), 5)
    assert padded.input_ids_T.tolist() == [9, 7, 1, 0, 0] and padded.position_ids_T.tolist() == [0, 1, 2, 0, 1]
    assert padded.cu_seqlens_S1.tolist() == [0, 3, 5] and padded.num_targets == 1
    nothing = empty_pack(2)
    assert nothing.num_tokens == 2 and nothing.num_targets == 0 and nothing.slots_PQ.numel() == 0 and nothing.cu_seqlens_S1.tolist() == [0, 2]


def test_prompts_end_together_and_their_slots_move_with_them():
    a, b = Rendered([9, 7, 7, 1, 2], [(1, 2)], placeholder_id=7), Rendered([7, 7, 3], [(0, 2)], placeholder_id=7)
    prompts = left_padded([a, b], [[0], [1]], num_queries=2)
    assert prompts.input_ids_T.view(2, 5).tolist() == [[9, 7, 7, 1, 2], [0, 0, 7, 7, 3]]
    assert prompts.position_ids_T.view(2, 5).tolist() == [[0, 1, 2, 3, 4], [-1, -1, 0, 1, 2]]
    assert prompts.slots_PQ.tolist() == [[1, 2], [7, 8]] and prompts.clip_of_span_P.tolist() == [0, 1] and prompts.num_targets == 0
