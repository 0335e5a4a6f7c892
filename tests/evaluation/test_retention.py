import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from nemo_desta.config import ModelConfig
from nemo_desta.evaluation.retention import Answer, check_retention, compare, load_prompts, plain_answers
from nemo_desta.models import DestaModel
from tests.tiny import tiny_llm, tiny_model_config

PROMPTS = ["What is the time?", "Name a fruit."]


def save_llm(source, target, *, seed):
    """A copy of a tiny LLM with a random output layer of its own, so that its answers vary from token to token."""
    llm = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, tie_word_embeddings=False)
    torch.manual_seed(seed)
    torch.nn.init.normal_(llm.lm_head.weight)
    with torch.no_grad():
        llm.lm_head.weight[-7:] = 0  # no special tokens: they would be dropped from the text
    llm.save_pretrained(target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A real model of tiny random parts."""
    root = tmp_path_factory.mktemp("model")
    save_llm(tiny_llm(root / "llm"), root / "llm", seed=1)
    return DestaModel.from_config(tiny_model_config(root)), root / "llm"


def test_a_frozen_backbone_answers_the_same_bytes(model):
    trained, backbone = model
    result = check_retention(trained, PROMPTS, backbone=backbone, dtype=trained.backbone.dtype, max_new_tokens=12)
    assert result["identical"] is True and result["prompts"] == 2 and result["different"] == 0
    assert all(row["before"] for row in result["rows"])  # answers, not blanks


def test_a_changed_backbone_is_found(model, tmp_path):
    trained, backbone = model
    save_llm(backbone, tmp_path, seed=2)
    result = check_retention(trained, PROMPTS, backbone=tmp_path, dtype=torch.float32, max_new_tokens=12)
    assert result["identical"] is False and result["different"] >= 1


def test_plain_answers_are_repeatable(model):
    _, backbone = model
    first = plain_answers(backbone, PROMPTS, max_new_tokens=6, dtype=torch.float32)
    assert first == plain_answers(backbone, PROMPTS, max_new_tokens=6, dtype=torch.float32)


def test_comparison_is_to_the_byte_and_the_token():
    same = compare(["p", "q"], [Answer("a", (1,)), Answer("b", (2,))], [Answer("a", (1,)), Answer("b")])
    assert same["identical"] is True
    assert compare(["p"], [Answer("a", (1,))], [Answer("a", (2,))])["identical"] is False
    assert compare(["p"], [Answer("caf\u00e9")], [Answer("cafe\u0301")])["different"] == 1
    assert compare([], [], [])["identical"] is None


def test_prompts():
    assert len(load_prompts(12)) == len(set(load_prompts(12))) == 12
    with pytest.raises(ValueError, match="retention_prompts=9999"):
        load_prompts(9999)


@pytest.mark.assets
def test_the_small_recipe_keeps_its_language(asset, model):
    backbone = next(iter(asset("smollm2-135m-instruct").values()))
    encoder = model[1].parent / "whisper"  # text-only answers do not touch it
    trained = DestaModel.from_config(ModelConfig(llm=str(backbone), encoder=str(encoder), placeholder_token="<filename>"))
    result = check_retention(trained, load_prompts(2), backbone=backbone, dtype=trained.backbone.dtype, max_new_tokens=12)
    assert result["identical"] is True
    assert "sky" in result["rows"][0]["before"]
