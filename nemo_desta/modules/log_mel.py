"""Whisper's log-mel features, batched in torch.

Padded to 30 s the result equals ``transformers.WhisperFeatureExtractor``. With ``longest`` a clip keeps the frames of its own samples only, and these are
the first frames that the 30 s version gives; neither depends on the clip's batch mates.

Shape suffixes: B clips, S samples, M mel bands, T mel frames (10 ms), R frequency bins.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_desta.config import PadTo
from nemo_desta.modules.encoder import frame_mask, stack_clips

WINDOW = 400  # samples of an analysis window (25 ms)
HOP = 160  # samples between frames (10 ms)
MAX_FRAMES = 3000  # mel frames of 30 s
MEL_FLOOR = 1e-10
DYNAMIC_RANGE = 8.0  # log10 units below a clip's loudest bin at which it is cut off


class LogMel:
    """Samples to Whisper's log-mel features.

    Args:
        num_mels: mel bands (80, or 128 for large-v3).
        max_frames: longest input of the encoder in mel frames; ``thirty_seconds`` pads to it.
        truncate: cut longer clips, as the reference does, instead of refusing them.
        device: where to compute; samples are moved there.
    """

    def __init__(self, num_mels: int = 80, *, max_frames: int = MAX_FRAMES, truncate: bool = False, device: torch.device | str = "cpu") -> None:
        from transformers import WhisperFeatureExtractor  # heavy import, needed once

        filters_RM = WhisperFeatureExtractor(feature_size=num_mels).mel_filters
        self.num_mels = num_mels
        self.max_frames = max_frames
        self.truncate = truncate
        self.device = torch.device(device)
        self._filters_MR = torch.from_numpy(np.ascontiguousarray(filters_RM.T)).to(self.device, torch.float32)
        self._window = torch.hann_window(WINDOW, device=self.device)

    @torch.no_grad()
    def __call__(self, samples: Sequence[np.ndarray | Tensor], pad_to: PadTo = PadTo.longest) -> tuple[Tensor, Tensor]:
        """Compute the features of a batch.

        Args:
            samples: 16 kHz mono floating-point clips in [-1, 1], each of shape (S,).
            pad_to: ``longest``: to the longest clip, zeros after a clip's own frames; ``thirty_seconds``: silence is added to every clip first.

        Returns:
            features_BMT (float32) and lengths_B (int64): mel frames of each clip, ``ceil(S / 160)``, or ``max_frames`` for ``thirty_seconds``.

        Raises:
            ValueError: if a clip is empty, not mono floating point, not finite, or longer than the encoder takes.
        """
        thirty_seconds = PadTo(pad_to) is PadTo.thirty_seconds
        max_samples = self.max_frames * HOP
        batch_BS, samples_B = stack_clips(samples, max_samples=max_samples, width=max_samples if thirty_seconds else WINDOW, truncate=self.truncate)
        lengths_B = -(-samples_B // HOP)
        if thirty_seconds:
            lengths_B = torch.full_like(lengths_B, self.max_frames)
        log_BMT = self._log_mel(batch_BS.to(self.device), reflect_end=thirty_seconds)[..., : int(lengths_B.max())]
        return _normalise(log_BMT, lengths_B.to(self.device)), lengths_B

    def _log_mel(self, batch_BS: Tensor, reflect_end: bool) -> Tensor:
        """log10 mel energies of windows centred at multiples of the hop."""
        half = WINDOW // 2
        padded_BS = F.pad(batch_BS, (half, half), mode="reflect") if reflect_end else F.pad(F.pad(batch_BS, (half, 0), mode="reflect"), (0, half))
        spectrum_BRT = torch.stft(padded_BS, WINDOW, HOP, window=self._window, center=False, return_complex=True)
        power_BRT = spectrum_BRT.real.square() + spectrum_BRT.imag.square()
        return (self._filters_MR @ power_BRT).clamp(min=MEL_FLOOR).log10()


def _normalise(log_BMT: Tensor, lengths_B: Tensor) -> Tensor:
    """Whisper's scaling, the loudest bin being looked for in a clip's own frames; frames after them become 0, like the convolution's own padding."""
    real_B1T = frame_mask(lengths_B, log_BMT.shape[-1])[:, None]
    peak_B11 = log_BMT.masked_fill(~real_B1T, -torch.inf).amax(dim=(1, 2), keepdim=True)
    scaled_BMT = (torch.maximum(log_BMT, peak_B11 - DYNAMIC_RANGE) + 4.0) / 4.0
    return scaled_BMT.masked_fill(~real_B1T, 0.0)
