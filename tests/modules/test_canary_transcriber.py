"""Transcripts of a tiny random Canary: NeMo's own classes, tokenizers trained on a few lines. Importing NeMo takes some 15 s."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from nemo_desta.config import PadTo
from nemo_desta.modules.canary_transcriber import CanaryTranscriber
from tests.modules.test_canary import ENCODER, PREPROCESSOR, noise
from tests.tiny import tiny_model_config

pytest.importorskip("nemo.collections.asr", reason="nemo_toolkit[asr] is not installed")

NEMO = "nemo.collections.asr"
WIDTH = 32
SPECIAL = ["startofcontext", "en", "de", "transcribe", "translate", "emo:undefined", "itn", "noitn", "timestamp", "notimestamp", "diarize", "nodiarize"]
DECODER = {"hidden_size": WIDTH, "inner_size": 64, "num_layers": 2, "num_attention_heads": 4, "hidden_act": "relu", "pre_ln": True, "vocab_size": None}
DECODER |= {"max_sequence_length": 48, "num_token_types": 0, "ffn_dropout": 0.0, "attn_score_dropout": 0.0, "attn_layer_dropout": 0.0, "embedding_dropout": 0.0}


def tokenizers(folder: Path) -> dict:
    """NeMo's layout of a Canary's tokenizers: one of special tokens, one a language."""
    from nemo.collections.common.tokenizers.canary_tokenizer import CanaryTokenizer
    from nemo.collections.common.tokenizers.sentencepiece_tokenizer import create_spt_model

    CanaryTokenizer.build_special_tokenizer(SPECIAL, folder / "spl_tokens")
    text = folder / "text.txt"
    text.write_text("\n".join(["the quick brown fox jumps over the lazy dog", "pack my box with five dozen liquor jugs"] * 20))
    create_spt_model(str(text), vocab_size=60, sample_size=-1, do_lower_case=False, output_dir=str(folder / "en"), tokenizer_type="bpe")
    own = {"_target_": "nemo.collections.common.tokenizers.canary_tokenizer.CanaryTokenizer", "tokenizers": None}
    return {"dir": None, "type": "agg", "langs": {name: {"dir": str(folder / name), "type": "bpe"} for name in ("spl_tokens", "en")}, "custom_tokenizer": own}


def canary(folder: Path, prompt_format: str = "canary"):
    """A model whose words depend on what it hears: the decoder attends sharply, to what sets a frame apart from noise's mean, and loudly."""
    from nemo.collections.asr.models import EncDecMultiTaskModel
    from omegaconf import OmegaConf

    torch.manual_seed(0)
    head = {"num_layers": 1, "activation": "relu", "log_softmax": True, "hidden_size": WIDTH, "num_classes": None, "dropout": 0.0, "use_transformer_init": True}
    parts = {
        "sample_rate": 16000,
        "prompt_format": prompt_format,
        "restore_timestamps_model": False,
        "model_defaults": {"asr_enc_hidden": WIDTH, "lm_enc_hidden": WIDTH, "lm_dec_hidden": WIDTH},
        "tokenizer": tokenizers(folder),
        "preprocessor": {"_target_": f"{NEMO}.modules.AudioToMelSpectrogramPreprocessor", **PREPROCESSOR, "dither": 0.0},
        "encoder": {"_target_": f"{NEMO}.modules.ConformerEncoder", **ENCODER},
        "transf_decoder": {"_target_": f"{NEMO}.modules.transformer.get_nemo_transformer", "encoder": None, "config_dict": DECODER},
        "head": {"_target_": f"{NEMO}.parts.submodules.token_classifier.TokenClassifier", **head},
        "decoding": {"strategy": "beam", "beam": {"beam_size": 1, "len_pen": 0.0, "max_generation_delta": -1}},
        "loss": {"_target_": "nemo.collections.common.losses.smoothed_cross_entropy.SmoothedCrossEntropyLoss", "pad_id": None},
    }
    model = EncDecMultiTaskModel(OmegaConf.create(parts)).eval()
    with torch.no_grad():
        features, lengths = model.preprocessor(input_signal=torch.from_numpy(noise(32000))[None], length=torch.tensor([32000]))
        mean = model.encoder(audio_signal=features, length=lengths)[0].mean(dim=(0, 2))
        for name, module in model.transf_decoder.named_modules():
            if name.endswith("second_sub_layer"):
                module.key_net.weight.mul_(10.0)
                module.value_net.weight.mul_(30.0)
                module.value_net.bias.copy_(-module.value_net.weight @ mean)
    return model


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("model")


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("canary")
    canary(folder).save_to(str(folder / "tiny.nemo"))
    return folder / "tiny.nemo"


@pytest.fixture(scope="module")
def transcriber(saved: Path) -> CanaryTranscriber:
    return CanaryTranscriber.from_pretrained(saved)


CLIPS = [torch.from_numpy(noise(32000)), torch.from_numpy(noise(20000, 1)), torch.from_numpy(np.sin(np.arange(24000) * 0.2).astype(np.float32))]


def test_words_are_those_of_nemos_own_transcription(saved: Path, transcriber: CanaryTranscriber) -> None:
    words = transcriber.transcribe(CLIPS)
    assert len(set(words)) > 1 and any(words)
    model = CanaryTranscriber.from_pretrained(saved).model  # NeMo's method leaves a model in training mode
    own = model.transcribe([clip.numpy() for clip in CLIPS], batch_size=1, source_lang="en", target_lang="en", task="asr", pnc="yes", verbose=False)
    assert words == [re.sub(r"<\|\w+\|>", "", hypothesis.text).strip() for hypothesis in own]
    assert words == [transcriber.transcribe([clip])[0] for clip in CLIPS], "a clip's words do not depend on its batch mates"


def test_the_decoder_reads_the_last_tap_of_the_connectors_encoder(saved: Path, transcriber: CanaryTranscriber) -> None:
    from nemo_desta.modules.canary import CanaryTaps

    encoder = CanaryTaps.from_pretrained(saved, taps=[1, 3])
    assert transcriber.reads(encoder) and not transcriber.reads(CanaryTaps.from_pretrained(saved, taps=[0, 2]))
    taps_NBTD, mask_BT = encoder.encode(*encoder.featurizer(CLIPS, PadTo.longest))
    each = [taps_NBTD[:, row, mask] for row, mask in enumerate(mask_BT)]
    assert transcriber.transcribe_taps(each) == transcriber.transcribe(CLIPS)


def test_an_answer_needs_one_encoder_pass(saved: Path, transcriber: CanaryTranscriber, root: Path) -> None:
    from nemo_desta.models.desta import DestaModel

    tiny = tiny_model_config(root, taps=[1, 3])
    model = DestaModel.from_config(dataclasses.replace(tiny, encoder=str(saved))).eval()
    passes: list[int] = []
    model.perception.encoder.conformer.register_forward_hook(lambda module, args, output: passes.append(1))
    conversations = [[{"role": "user", "content": "<|AUDIO|>", "audios": [{"audio": clip, "text": None}]}] for clip in CLIPS]
    shown = [out.audios for out in model.generate(conversations, max_new_tokens=1)]
    assert shown == [[("samples", text)] for text in transcriber.transcribe(CLIPS)] and len(passes) == 1
    assert not model.transcriber.model.encoder.layers, "the second copy of the encoder is freed"


def test_prompts_ask_for_a_transcript_in_the_language(tmp_path: Path, transcriber: CanaryTranscriber) -> None:
    def tokens(scribe: CanaryTranscriber) -> list[str]:
        known = {number: token for token, number in scribe.model.tokenizer.special_tokens.items()}
        return [known[number].strip("<|>") for number in scribe._prompt()[0].tolist()]

    assert tokens(transcriber) == ["startoftranscript", "en", "transcribe", "en", "pnc"]
    assert tokens(CanaryTranscriber(transcriber.model, language="de"))[1:4] == ["de", "transcribe", "de"]
    second = ["startofcontext", "startoftranscript", "emo:undefined", "en", "en", "pnc", "noitn", "notimestamp", "nodiarize"]
    assert tokens(CanaryTranscriber(canary(tmp_path, "canary2"))) == second


def test_a_model_without_a_canary_decoder_is_refused(tmp_path: Path) -> None:
    from nemo.collections.asr.models import EncDecCTCModel
    from omegaconf import OmegaConf

    from nemo_desta.modules.transcriber import build_transcriber

    decoder = {"_target_": f"{NEMO}.modules.ConvASRDecoder", "feat_in": WIDTH, "num_classes": 2, "vocabulary": ["a", "b"]}
    front = {"_target_": f"{NEMO}.modules.AudioToMelSpectrogramPreprocessor", **PREPROCESSOR}
    encoder = {"_target_": f"{NEMO}.modules.ConformerEncoder", **ENCODER}
    model = EncDecCTCModel(OmegaConf.create({"preprocessor": front, "encoder": encoder, "decoder": decoder}))
    model.save_to(str(tmp_path / "ctc.nemo"))
    with pytest.raises(ValueError, match="EncDecCTCModel, which has no Canary decoder: give 'text'"):
        build_transcriber(tmp_path / "ctc.nemo")
