"""Frozen Whisper encoder that gives the raw outputs of some of its blocks (contract C5).

The taps are block outputs before the final LayerNorm, as in the reference. Blocks after the last tap are not kept, nor is the decoder. The forward pass
is written out here over fused weights: ``WhisperEncoder.forward`` insists on 30 s, takes no mask, and its layers' return type differs between versions.

Shape suffixes: B clips, N taps, M mel bands, L mel frames (10 ms), T encoder frames (20 ms), D width, A heads, K head width.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nemo_desta.config import PadTo
from nemo_desta.modules.encoder import check_taps, frame_mask, similar_lengths, without_autocast
from nemo_desta.modules.log_mel import LogMel

if TYPE_CHECKING:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder, WhisperEncoderLayer

_FRAMES_PER_SECOND = 50.0
_MEL_PER_FRAME = 2  # stride of the second convolution


class _Block(nn.Module):
    """One pre-LN encoder block with the query, key and value projections fused."""

    def __init__(self, layer: "WhisperEncoderLayer", num_heads: int) -> None:
        super().__init__()
        attention = layer.self_attn
        self.num_heads = num_heads
        self.attention_norm, self.ffn_norm = layer.self_attn_layer_norm, layer.final_layer_norm
        self.out, self.fc1, self.fc2 = attention.out_proj, layer.fc1, layer.fc2
        parts = [attention.q_proj, attention.k_proj, attention.v_proj]
        weight = torch.cat([part.weight.detach() for part in parts])
        bias = torch.cat([part.weight.new_zeros(part.out_features) if part.bias is None else part.bias.detach() for part in parts])
        self.qkv = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
        self.qkv.weight, self.qkv.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x_BTD: Tensor, mask_B1TT: Tensor | None) -> Tensor:
        qkv_BT3AK = self.qkv(self.attention_norm(x_BTD)).unflatten(-1, (3, self.num_heads, -1))
        q_BATK, k_BATK, v_BATK = qkv_BT3AK.permute(2, 0, 3, 1, 4)
        mixed_BATK = F.scaled_dot_product_attention(q_BATK, k_BATK, v_BATK, attn_mask=mask_B1TT)
        x_BTD = x_BTD + self.out(mixed_BATK.transpose(1, 2).flatten(2))
        return x_BTD + self.fc2(F.gelu(self.fc1(self.ffn_norm(x_BTD))))


class WhisperTaps(nn.Module):
    """Frozen Whisper encoder blocks up to the last tap.

    Args:
        encoder: a transformers ``WhisperEncoder``; its tensors are taken over.
        taps: 0-based blocks to read; None = evenly spaced ones (the reference's own for the sizes it knows).
        pad_to: ``longest`` masks padded frames, so that a clip's taps do not depend on its batch mates; ``thirty_seconds`` masks nothing (reference).

    Raises:
        ValueError: if the taps do not fit the encoder or its activation is not GELU.
    """

    def __init__(self, encoder: "WhisperEncoder", taps: Sequence[int] | None = None, pad_to: PadTo = PadTo.longest) -> None:
        super().__init__()
        config = encoder.config
        if config.activation_function != "gelu":
            raise ValueError(f"Whisper encoder with activation {config.activation_function!r}; only 'gelu' is implemented")
        self.taps = check_taps(taps, config.encoder_layers)
        self.pad_to = PadTo(pad_to)
        self.max_mel_frames = config.max_source_positions * _MEL_PER_FRAME
        self.num_mels = config.num_mel_bins
        self._num_heads = config.encoder_attention_heads
        self._featurizer: LogMel | None = None
        self.conv1, self.conv2 = encoder.conv1, encoder.conv2
        self.positions = nn.Parameter(encoder.embed_positions.weight.detach())
        self.blocks = nn.ModuleList(_Block(layer, self._num_heads) for layer in encoder.layers[: self.taps[-1] + 1])
        self.requires_grad_(False)
        super().train(False)

    @classmethod
    def from_pretrained(
        cls, ref: str | Path, taps: Sequence[int] | None = None, pad_to: PadTo = PadTo.longest, *, dtype: torch.dtype = torch.float32
    ) -> "WhisperTaps":
        """Load from a Whisper directory in Hugging Face layout, or from a hub name.

        Raises:
            ValueError: if the checkpoint lacks encoder weights (they would be random).
        """
        from transformers import WhisperModel

        # The format is always named: left to itself transformers 5 keeps the file's, which is fp16 for large-v3.
        model, info = WhisperModel.from_pretrained(ref, dtype=dtype, output_loading_info=True)
        missing = sorted(name for name in info["missing_keys"] if name.startswith("encoder."))
        if missing:
            raise ValueError(f"{ref} lacks {len(missing)} encoder tensors, first {missing[0]}; the checkpoint is incomplete or not a Whisper model")
        return cls(model.encoder, taps=taps, pad_to=pad_to)

    @classmethod
    def from_config(cls, config: "WhisperConfig", taps: Sequence[int] | None = None, pad_to: PadTo = PadTo.longest) -> "WhisperTaps":
        """Random weights of a given size; under ``torch.device("meta")`` only shapes."""
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        return cls(WhisperEncoder(config), taps=taps, pad_to=pad_to)

    @property
    def dim(self) -> int:
        """Width of a tap."""
        return self.positions.shape[1]

    @property
    def num_heads(self) -> int:
        """Attention heads of a block."""
        return self._num_heads

    @property
    def num_taps(self) -> int:
        """Number of taps."""
        return len(self.taps)

    @property
    def frames_per_second(self) -> float:
        """Frames of a tap per second of audio."""
        return _FRAMES_PER_SECOND

    @property
    def featurizer(self) -> LogMel:
        """Samples to the input of :meth:`encode` (made at first use)."""
        if self._featurizer is None:
            self._featurizer = LogMel(self.num_mels, max_frames=self.max_mel_frames)
        return self._featurizer

    def train(self, mode: bool = True) -> "WhisperTaps":
        """Stays in evaluation mode: the encoder is frozen."""
        return super().train(False)

    @torch.no_grad()
    def encode(self, features_BML: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor | None]:
        """Encode a batch of log-mel features.

        Args:
            features_BML: log-mel features, any device and floating dtype (moved to the encoder's).
            lengths_B: mel frames of each clip; on the CPU this needs no device synchronisation. Ignored for ``thirty_seconds``.

        Returns:
            taps_NBTD in the encoder's dtype (zeros after a clip's own frames) and frame_mask_BT, or None for ``thirty_seconds``.

        Raises:
            ValueError: if the features have another number of mel bands, are too long, or a length lies outside them.
        """
        if features_BML.dim() != 3 or features_BML.shape[1] != self.num_mels:
            raise ValueError(f"features have shape {tuple(features_BML.shape)}; this Whisper takes (clips, {self.num_mels}, mel frames)")
        features_BML = features_BML.to(self.conv1.weight.device, self.conv1.weight.dtype)
        with without_autocast(features_BML.device):
            if self.pad_to is PadTo.thirty_seconds:
                return self._encode_unmasked(features_BML), None
            return self._encode_masked(features_BML, lengths_B)

    forward = encode

    def _encode_unmasked(self, features_BML: Tensor) -> Tensor:
        if features_BML.shape[-1] != self.max_mel_frames:
            raise ValueError(f"pad_to=thirty_seconds takes {self.max_mel_frames} mel frames, got {features_BML.shape[-1]}; give the featurizer the same pad_to")
        return self.taps_of_whole(features_BML)

    def taps_of_whole(self, features_BML: Tensor) -> Tensor:
        """Taps_NBTD of clips that fill every frame. Tensor operations only, so that a tracer can follow."""
        return torch.stack(list(self._blocks(self._front_end(features_BML, None), None)))

    def taps_of_padded(self, features_BML: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Taps_NBTD (zeros after a clip's own frames) and mask_BT of clips of several lengths. Tensor operations only, like :meth:`taps_of_whole`.

        Args:
            features_BML: log-mel features in the encoder's format.
            lengths_B: mel frames of each clip, at least 1, on the features' device.
        """
        x_BTD = self._front_end(features_BML, frame_mask(lengths_B, features_BML.shape[-1]))
        mask_BT = frame_mask((lengths_B + 1) // _MEL_PER_FRAME, x_BTD.shape[1])
        # A row of the mask for every query: ONNX Runtime's Attention does not broadcast it. The expanded mask is a view.
        mask_B1TT = mask_BT[:, None, None, :].expand(-1, -1, x_BTD.shape[1], -1)
        taps_NBTD = torch.stack(list(self._blocks(x_BTD, mask_B1TT)))
        return taps_NBTD.masked_fill(~mask_BT[None, :, :, None], 0.0), mask_BT

    def _encode_masked(self, features_BML: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        lengths = lengths_B.tolist()
        if len(lengths) != len(features_BML) or min(lengths) < 1 or max(lengths) > min(features_BML.shape[-1], self.max_mel_frames):
            raise ValueError(f"mel lengths {lengths} do not fit features of shape {tuple(features_BML.shape)} in an encoder of {self.max_mel_frames} frames")
        frames = [-(-length // _MEL_PER_FRAME) for length in lengths]
        device = features_BML.device
        mask_BT = frame_mask(torch.tensor(frames, device=device), max(frames))
        groups = similar_lengths(frames)
        if len(groups) == 1:
            return self._encode_group(features_BML, lengths), mask_BT
        taps_NBTD = features_BML.new_zeros(self.num_taps, len(frames), max(frames), self.dim)
        for rows in groups:
            part_NBTD = self._encode_group(features_BML[rows], [lengths[row] for row in rows])
            taps_NBTD[:, rows, : part_NBTD.shape[2]] = part_NBTD
        return taps_NBTD, mask_BT

    def _encode_group(self, features_BML: Tensor, lengths: list[int]) -> Tensor:
        """Taps of clips encoded together, zeros after each clip's frames."""
        features_BML = features_BML[..., : max(lengths)]
        if min(lengths) == max(lengths):
            return self.taps_of_whole(features_BML)
        return self.taps_of_padded(features_BML, torch.tensor(lengths, device=features_BML.device))[0]

    def _front_end(self, features_BML: Tensor, mask_BL: Tensor | None) -> Tensor:
        """Two convolutions and positions. Padded frames are zeroed before each convolution, so that a clip sees what it would see alone."""
        if mask_BL is not None:
            features_BML = features_BML * mask_BL[:, None]
        x_BDL = F.gelu(self.conv1(features_BML))
        if mask_BL is not None:
            x_BDL = x_BDL * mask_BL[:, None]
        x_BTD = F.gelu(self.conv2(x_BDL)).transpose(1, 2)
        return x_BTD + self.positions[: x_BTD.shape[1]]

    def _blocks(self, x_BTD: Tensor, mask_B1TT: Tensor | None) -> Iterator[Tensor]:
        """Yield the output of each tapped block."""
        for index, block in enumerate(self.blocks):
            x_BTD = block(x_BTD, mask_B1TT)
            if index in self.taps:
                yield x_BTD


class WhisperRest(nn.Module):
    """The end of a Whisper encoder: a block's output to what the decoder attends to.

    Args:
        encoder: a transformers ``WhisperEncoder``; its tensors are taken over.
        start: first block that is left to do.
    """

    def __init__(self, encoder: "WhisperEncoder", start: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(layer, encoder.config.encoder_attention_heads) for layer in encoder.layers[start:])
        self.norm = encoder.layer_norm
        self.requires_grad_(False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Clips of one length, every frame real."""
        for block in self.blocks:
            x_BTD = block(x_BTD, None)
        normed_BTD: Tensor = self.norm(x_BTD)
        return normed_BTD


def featurizer_for(ref: str | Path) -> LogMel:
    """The log-mel front end of a Whisper checkpoint, from its configuration alone."""
    from transformers import WhisperConfig

    config = WhisperConfig.from_pretrained(ref)
    return LogMel(config.num_mel_bins, max_frames=config.max_source_positions * _MEL_PER_FRAME)
