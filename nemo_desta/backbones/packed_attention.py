"""Attention over packed rows, registered with transformers as ``desta_packed``.

Shape legend: B batch, N heads, T tokens, K head size.

With ``row_lengths`` (training; `HFBackbone` passes them through the model's forward) the rows of a pack are attended one by one: no T x T mask exists and no
row sees another. Keys that lie before the queries' own (T_key > T_query) belong to a beginning that all rows share, and every row sees them. Without
``row_lengths`` (generation) the call is transformers' own SDPA with its mask.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

NAME = "desta_packed"


def packed_attention(
    module: nn.Module,
    query_BNTK: Tensor,
    key_BNTK: Tensor,
    value_BNTK: Tensor,
    attention_mask: Tensor | None,
    *,
    row_lengths: list[int] | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Transformers' attention function; see its ``AttentionInterface``. Returns [B, T, N, K]."""
    if row_lengths is None:
        return sdpa_attention_forward(module, query_BNTK, key_BNTK, value_BNTK, attention_mask, scaling=scaling, dropout=dropout, **kwargs)
    assert query_BNTK.shape[0] == 1, "a pack is one sequence"
    settings: dict[str, Any] = {"scale": scaling, "dropout_p": dropout, "enable_gqa": query_BNTK.shape[1] != key_BNTK.shape[1]}
    shared = key_BNTK.shape[2] - query_BNTK.shape[2]
    first_key, first_value = key_BNTK[:, :, :shared], value_BNTK[:, :, :shared]
    rows = zip(*(x.split(row_lengths, dim=2) for x in (query_BNTK, key_BNTK[:, :, shared:], value_BNTK[:, :, shared:])), strict=True)
    outputs = []
    for q, k, v in rows:
        if shared:
            k, v = torch.cat([first_key, k], dim=2), torch.cat([first_value, v], dim=2)
            mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(shared)
            outputs.append(F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **settings))
        else:
            outputs.append(F.scaled_dot_product_attention(q, k, v, is_causal=True, **settings))
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    return sdpa_mask(*args, **kwargs)


def register() -> str:
    """Make the function known to transformers (once is enough, twice does no harm) and return its name."""
    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, _mask)
    return NAME
