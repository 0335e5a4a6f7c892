"""One encoder pass for two readers: Whisper's decoder reads on from where the connector's encoder stopped.

The blocks behind the connector's last tap and the final LayerNorm turn that tap into what Whisper's decoder attends to. Where the connector's encoder hears
unpadded clips (``pad_to: longest``), a clip's own frames are followed by the states of silence up to 30 s: the decoder knows from these where a clip ends
(from the clip's frames alone it repeats words without end).

Shape suffixes: B clips, T encoder frames (20 ms), D width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from nemo_desta.modules.transcriber import WhisperTranscriber
from nemo_desta.modules.whisper import WhisperRest

SILENT_MEL = -1.5  # log-mel value of digital silence after Whisper's scaling


class SharedPass:
    """Encoder states for Whisper's decoder out of taps that are known.

    Args:
        whisper: the transcriber. Its encoder's blocks up to the last tap are given up with their memory: from then on it transcribes states only.
        last_tap: block whose output the taps end with.

    Raises:
        ValueError: Whisper has no such block.
    """

    def __init__(self, whisper: WhisperTranscriber, last_tap: int) -> None:
        encoder = whisper.model.model.encoder
        if not 0 <= last_tap < len(encoder.layers):
            raise ValueError(f"the connector listens to block {last_tap}, the transcribing Whisper has {len(encoder.layers)}: use the encoder's own Whisper")
        silence_1ML = torch.full((1, whisper.model.config.num_mel_bins, 2 * whisper.model.config.max_source_positions), SILENT_MEL)
        states = whisper.encode(silence_1ML).last_hidden_state
        assert states is not None
        self._silence_TD = states[0]
        self._rest = WhisperRest(encoder, last_tap + 1)
        encoder.layers = nn.ModuleList()

    @torch.inference_mode()
    def states(self, taps_TD: Sequence[Tensor]) -> BaseModelOutput:
        """Encoder states [B, T of 30 s, D].

        Args:
            taps_TD: the last tap of each clip, its own frames only.
        """
        silence_TD = self._silence_TD
        states = [self._rest(tap_TD[None].to(silence_TD))[0] for tap_TD in taps_TD]
        return BaseModelOutput(last_hidden_state=torch.stack([torch.cat([own_TD, silence_TD[len(own_TD) :]]) for own_TD in states]))
