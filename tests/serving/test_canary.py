"""Serving a model that hears with a NeMo encoder: the Canary's own words, or a refusal before weights are read. Importing NeMo takes some 15 s."""

import dataclasses
from pathlib import Path

import pytest
import torch

from nemo_desta.models.desta import DestaModel
from nemo_desta.modules.canary_transcriber import CanaryTranscriber
from nemo_desta.serving.hearing import Listener
from nemo_desta.serving.prompt import Block, Conversation
from nemo_desta.serving.server import load_model, make_app
from nemo_desta.serving.settings import Transcripts
from tests.modules.test_canary import ENCODER, PREPROCESSOR
from tests.modules.test_canary_transcriber import CLIPS, NEMO, WIDTH, canary
from tests.serving.conftest import config
from tests.tiny import tiny_model_config

pytest.importorskip("nemo.collections.asr", reason="nemo_toolkit[asr] is not installed")


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("canary")
    canary(folder).save_to(str(folder / "tiny.nemo"))
    return folder / "tiny.nemo"


def hearing_with(encoder: Path, folder: Path, taps: list[int]) -> DestaModel:
    torch.manual_seed(0)
    return DestaModel.from_config(dataclasses.replace(tiny_model_config(folder, taps=taps), encoder=str(encoder))).eval()


def words(listener: Listener) -> list[str]:
    """Transcripts of a request with all clips, the second of which the caller has written down."""
    blocks = [Block(i, 0.0, len(clip) / 16_000, clip, "said" if i == 1 else None) for i, clip in enumerate(CLIPS)]
    turns = [{"role": "user", "content": "\n".join(["<|AUDIO|>"] * len(blocks)) + "\n\nWhat?"}]
    return listener.listen(Conversation(turns, blocks)).transcripts


@pytest.mark.parametrize(("taps", "shared"), [([1, 3], True), ([0, 2], False)])
def test_a_canary_writes_the_transcripts(saved, tmp_path, taps, shared):
    model = hearing_with(saved, tmp_path, taps)
    passes: list[int] = []
    model.perception.encoder.conformer.register_forward_hook(lambda module, args, output: passes.append(1))
    listener = Listener(model, Transcripts.own)
    assert bool(listener.transcriber.model.encoder.layers) is not shared  # a second copy of the encoder is kept only where it is needed
    first, second, third = words(listener)
    assert [first, third] == CanaryTranscriber.from_pretrained(saved).transcribe([CLIPS[0], CLIPS[2]]) and any((first, third)) and second == "said"
    assert len(passes) == 1


def test_a_checkpoint_with_a_canary_is_loaded_with_its_transcripts(saved, tmp_path):
    hearing_with(saved, tmp_path / "parts", [1, 3]).save_pretrained(tmp_path / "checkpoint")
    loaded = load_model(config(checkpoint=str(tmp_path / "checkpoint"), transcripts=Transcripts.own))
    assert Listener(loaded, Transcripts.own).transcriber is not None


def test_an_encoder_without_a_decoder_is_refused_before_any_weights_are_read(tmp_path, monkeypatch):
    from nemo.collections.asr.models import ASRModel, EncDecCTCModel
    from omegaconf import OmegaConf

    decoder = {"_target_": f"{NEMO}.modules.ConvASRDecoder", "feat_in": WIDTH, "num_classes": 2, "vocabulary": ["a", "b"]}
    front = {"_target_": f"{NEMO}.modules.AudioToMelSpectrogramPreprocessor", **PREPROCESSOR}
    parts = {"preprocessor": front, "encoder": {"_target_": f"{NEMO}.modules.ConformerEncoder", **ENCODER}, "decoder": decoder}
    EncDecCTCModel(OmegaConf.create(parts)).save_to(str(tmp_path / "ctc.nemo"))
    model = hearing_with(tmp_path / "ctc.nemo", tmp_path / "parts", [1, 3])
    model.save_pretrained(tmp_path / "checkpoint")
    settings = config(checkpoint=str(tmp_path / "checkpoint"), transcripts=Transcripts.own)
    with pytest.raises(ValueError, match=r"EncDecCTCModel, which has no Canary decoder.*transcripts=off"):
        make_app(settings, model)  # a model that is there already
    reads = ASRModel.restore_from
    monkeypatch.setattr(ASRModel, "restore_from", lambda *a, **k: reads(*a, **k) if k.get("return_config") else pytest.fail("weights were read"))
    monkeypatch.setattr(DestaModel, "from_pretrained", lambda *a, **k: pytest.fail("the model was loaded"))
    with pytest.raises(ValueError, match=r"EncDecCTCModel, which has no decoder for transcripts.*transcripts=off"):
        make_app(settings)
    with pytest.raises(pytest.fail.Exception, match="the model was loaded"):
        load_model(config(checkpoint=str(tmp_path / "checkpoint")))  # transcripts=off: nothing is asked of the encoder
