"""Encoder and connector together: samples' features to vectors of the LLM's width.

Shape suffixes: B clips, N taps, M feature bands, L feature frames, T encoder frames, D encoder width, Q queries, H LLM width.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from nemo_desta.config import ConnectorInit
from nemo_desta.modules.encoder import AudioEncoder
from nemo_desta.modules.qformer import QFormerConnector, amplify_cross_attention_, scale_projection_

if TYPE_CHECKING:
    from nemo_desta.config import ConnectorConfig


class Perception(nn.Module):
    """The frozen encoder and the trained connector. Only ``connector.*`` belongs in a checkpoint.

    Args:
        encoder: an :class:`AudioEncoder` module; its parameters are frozen here.
        connector: the Q-Former, built for that encoder.

    Raises:
        ValueError: if the connector was built for another width or number of taps.
    """

    def __init__(self, encoder: AudioEncoder, connector: QFormerConnector) -> None:
        super().__init__()
        if (encoder.dim, encoder.num_taps) != (connector.encoder_dim, connector.num_taps):
            have, want = f"{encoder.num_taps} taps of width {encoder.dim}", f"{connector.num_taps} taps of width {connector.encoder_dim}"
            raise ValueError(f"the encoder gives {have}, the connector takes {want}; build both from one configuration")
        assert isinstance(encoder, nn.Module)
        self.encoder = encoder.requires_grad_(False)
        self.connector = connector

    @classmethod
    def build(cls, encoder: AudioEncoder, config: "ConnectorConfig", *, llm_dim: int, embedding_std: float | None = None) -> "Perception":
        """Add a fresh connector to an encoder.

        Args:
            encoder: the audio encoder; its taps, width and heads size the connector.
            config: the connector's configuration group (its ``taps`` were the encoder's business).
            llm_dim: width of the LLM's embeddings.
            embedding_std: standard deviation of the LLM's embedding table; needed for ``init: embedding_scale``.

        Raises:
            ValueError: if ``init`` is ``embedding_scale`` and ``embedding_std`` is None.
        """
        sizes = {"encoder_dim": encoder.dim, "num_taps": encoder.num_taps, "num_heads": encoder.num_heads}
        connector = QFormerConnector.from_config(config, llm_dim=llm_dim, **sizes)
        amplify_cross_attention_(connector, config.cross_attention_gain)
        if config.init is ConnectorInit.embedding_scale:
            if embedding_std is None:
                raise ValueError("connector.init=embedding_scale needs the standard deviation of the LLM's embeddings; pass embedding_std, or init=reference")
            scale_projection_(connector, embedding_std)
        return cls(encoder, connector)

    def compile_parts(self, **options: Any) -> None:
        """Let torch.compile fuse the encoder's blocks and the connector, in place: names of parameters stay. Lengths may vary without a new compilation.

        The LLM is left alone: its attention walks over the rows of a pack, whose lengths are new in every step.

        Args:
            options: of ``torch.compile``.
        """
        options = {"dynamic": True} | options
        for block in getattr(self.encoder, "blocks", ()):  # a NeMo encoder gives its taps by hooks, which a compiled layer would not call
            block.compile(**options)
        self.connector.qformer.compile(**options)

    @property
    def num_queries(self) -> int:
        """Vectors that a clip becomes."""
        return self.connector.num_queries

    def forward(self, features_BML: Tensor, lengths_B: Tensor) -> Tensor:
        """Encode and compress a batch of clips.

        Args:
            features_BML: output of ``encoder.featurizer``.
            lengths_B: feature frames of each clip.

        Returns:
            x_BQH: vectors to splice into the LLM's input; gradients reach the connector only.
        """
        return self.connect(*self.encoder.encode(features_BML, lengths_B))

    def connect(self, taps_NBTD: Tensor, frame_mask_BT: Tensor | None = None) -> Tensor:
        """Compress taps computed before (from a cache, or shared by several prompts of one clip) to x_BQH."""
        return self.connector(taps_NBTD, frame_mask_BT)

    def listen(self, samples: Sequence[np.ndarray | Tensor]) -> Tensor:
        """16 kHz mono clips straight to x_BQH (inference)."""
        return self(*self.encoder.featurizer(samples, self.encoder.pad_to))
