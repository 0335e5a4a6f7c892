"""The reference's published checkpoint as the model under test: its exact layout at tiny sizes, found offline in the user's hub cache by its id."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaForCausalLM, WhisperConfig, WhisperForConditionalGeneration

from nemo_desta.evaluation.journal import read_rows
from tests.evaluation.made_data import mmau
from tests.tiny import LLAMA3, tiny_llm, tiny_tokenizer

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT, LLM, ENCODER = "DeSTA-ntu/DeSTA2.5-Audio-Llama-3.1-8B", "DeSTA-ntu/Llama-3.1-8B-Instruct", "openai/whisper-large-v3"
PLACEHOLDER = "<|reserved_special_token_87|>"
WIDTH, LLM_WIDTH, FFN, QUERIES, TAPS, LAYERS = 64, 64, 3072, 64, 4, 6  # published: 1280, 4096, and the rest as here

CHILD = """
import sys
from pathlib import Path
from safetensors.torch import load_file
from nemo_desta.checkpoint.connector import trainable_state
from nemo_desta.config import Precision
from nemo_desta.evaluation.config import GenerationOverrides, ZeroShotConfig
from nemo_desta.evaluation.zero_shot import evaluate_zero_shot
from nemo_desta.models import DestaModel
from nemo_desta.models.build import locate_checkpoint

name, data, run_dir = sys.argv[1:]
model = DestaModel.from_pretrained(name)
stored, loaded = load_file(locate_checkpoint(name) / "model.safetensors"), trainable_state(model)
assert stored.keys() == loaded.keys() and all((stored[key].float() == loaded[key].float().cpu()).all() for key in stored)
assert list(model.perception.encoder.taps) == [7, 15, 23, 31], model.perception.encoder.taps
generation = GenerationOverrides(max_new_tokens=4, precision=Precision.fp32, transcribe=False)


def evaluate(ref, load=None):
    cfg = ZeroShotConfig(name="p", benchmarks=["mmau"], data_root=data, subsets={"mmau": ["test-mini"]}, limit=2, model=ref, run_dir=run_dir, bootstrap=20)
    cfg.generation = generation
    return evaluate_zero_shot(cfg, load_model=load, progress=False)


def unused(path):
    raise AssertionError("the same weights were asked already")


assert evaluate(name)["complete"]
assert evaluate("hf://" + name, unused)["complete"]
try:
    DestaModel.from_pretrained("DeSTA-ntu/absent")
except ValueError as error:
    print(error)
"""


def published_tensors() -> dict[str, torch.Tensor]:
    """All 165 names and shapes of the published file, of this width."""
    connector = "perception.connector."
    shapes: dict[str, tuple[int, ...]] = {f"{connector}layer_weights": (QUERIES, TAPS)}
    shapes |= {f"{connector}layer_prompts.{tap}": (1, QUERIES, WIDTH) for tap in range(TAPS)}
    for layer in range(LAYERS):
        block = f"{connector}qformer.layer.{layer}."
        square = [f"{kind}.{part}" for kind in ("attention", "crossattention") for part in ("self.query", "self.key", "self.value", "output.dense")]
        shapes |= {f"{block}{part}.weight": (WIDTH, WIDTH) for part in square} | {f"{block}{part}.bias": (WIDTH,) for part in square}
        norms = ("attention.output.LayerNorm", "crossattention.output.LayerNorm", "output.LayerNorm")
        shapes |= {f"{block}{part}.{kind}": (WIDTH,) for part in norms for kind in ("weight", "bias")}
        shapes |= {f"{block}intermediate.dense.weight": (FFN, WIDTH), f"{block}intermediate.dense.bias": (FFN,)}
        shapes |= {f"{block}output.dense.weight": (WIDTH, FFN), f"{block}output.dense.bias": (WIDTH,)}
    shapes |= {f"{connector}proj.0.weight": (WIDTH,), f"{connector}proj.0.bias": (WIDTH,)}
    shapes |= {f"{connector}proj.1.weight": (LLM_WIDTH, WIDTH), f"{connector}proj.1.bias": (LLM_WIDTH,)}
    torch.manual_seed(5)
    return {name: 0.1 * torch.randn(shape) for name, shape in shapes.items()}


def snapshot(home: Path, name: str) -> Path:
    """The folder of a repository's files in a hub cache, as `huggingface_hub` lays it out."""
    repository = home / "hub" / f"models--{name.replace('/', '--')}"
    commit = f"{len(name):040x}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    folder = repository / "snapshots" / commit
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Path:
    """A HF_HOME that holds the three repositories, tiny."""
    home = tmp_path_factory.mktemp("hf_home")
    llm = tiny_llm(snapshot(home, LLM))
    tokenizer = tiny_tokenizer(LLAMA3)
    tokenizer.add_tokens([PLACEHOLDER], special_tokens=True)
    tokenizer.save_pretrained(llm)
    model = LlamaForCausalLM.from_pretrained(llm)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(llm)
    torch.manual_seed(6)
    sizes = {"d_model": WIDTH, "encoder_layers": 32, "encoder_attention_heads": 1, "encoder_ffn_dim": 64, "num_mel_bins": 128}
    decoder = {"decoder_layers": 1, "decoder_attention_heads": 1, "decoder_ffn_dim": 64, "vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1}
    whisper = WhisperConfig(**sizes, **decoder, eos_token_id=2, decoder_start_token_id=3)
    WhisperForConditionalGeneration(whisper).save_pretrained(snapshot(home, ENCODER))
    folder = snapshot(home, CHECKPOINT)
    config = {
        "architectures": ["DeSTA25AudioModel"], "model_type": "desta25", "llm_model_id": LLM, "encoder_model_id": ENCODER,
        "connector_mode": "qformer_1", "qformer_num_hidden_layers": LAYERS, "prompt_size": QUERIES, "use_lora": False, "audio_locator": "<|AUDIO|>",
        "placeholder_token": PLACEHOLDER, "llm_config": model.config.to_diff_dict(), "encoder_config": whisper.to_diff_dict(), "train_id": "t",
        "trainer_version": "1", "commit": "c", "info": "", "torch_dtype": "float32", "transformers_version": "4.51.3",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, default=str))
    save_file(published_tensors(), folder / "model.safetensors", metadata={"format": "pt"})
    return home


def test_the_published_checkpoint_is_asked_by_its_id_offline(hub, tmp_path):
    assert len(published_tensors()) == 165
    data = mmau.make(tmp_path / "data" / "mmau").parent
    environment = {key: value for key, value in os.environ.items() if key not in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE")}
    environment |= {"HF_HOME": str(hub), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CHILD, CHECKPOINT, str(data), str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "cannot fetch the checkpoint DeSTA-ntu/absent" in done.stdout
    rows = read_rows(tmp_path / "run" / "predictions" / "mmau.jsonl")
    assert len(rows) == 2 and all(row["response"] is not None and not row["error"] for row in rows)  # asked once, though the id was written in two ways
    assert json.loads((tmp_path / "run" / "results.json").read_text())["model"]["kind"] == "desta"
