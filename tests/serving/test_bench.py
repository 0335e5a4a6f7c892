"""The measuring tool on the tiny server."""

import re
import shutil

import pytest

from nemo_desta.export.pipeline import export
from nemo_desta.export.settings import Dtype, ExportConfig, Target
from nemo_desta.export.tiny import make_tiny_checkpoint
from nemo_desta.models import DestaModel
from nemo_desta.serving.server import make_app
from tests.serving.conftest import config, encoded, running, tone
from tools import bench_serving


def test_every_level_is_measured(serve, tmp_path, capsys):
    for i in range(3):
        (tmp_path / f"{i}.wav").write_bytes(encoded(tone(0.4 + 0.1 * i)))
    url = f"{serve()}/v1"
    places = ["--clips", str(tmp_path), "--output", str(tmp_path / "out" / "table.md")]
    targets = ["--target", f"a={url}", "--target", f"b={url}"]
    code = bench_serving.main([*targets, *places, "--concurrency", "1", "3", "--requests", "4", "--max-tokens", "5"])
    table = (tmp_path / "out" / "table.md").read_text()
    assert code == 0 and table.count("| 4 | 0 |") == 4 and "4 of 4 answers are the same" in table and table in capsys.readouterr().out
    assert all(float(line.split("|")[7]) > 0 for line in table.splitlines() if line.startswith(("| a", "| b")))


def test_onnxruntime_is_a_row_of_the_same_run(tmp_path, capsys):
    pytest.importorskip("onnxscript", reason="the export extra is not installed: pip install -e '.[export]'")
    targets = [Target.onnx, Target.onnx_decoder, Target.hf]
    bundle = tmp_path / "bundle"
    export(ExportConfig(checkpoint="tiny-random", output=str(bundle), targets=targets, dtype=Dtype.float32, parity_batches=[1]))
    checkpoint = make_tiny_checkpoint(tmp_path / "bundle.tiny-random")
    for i in range(5):
        (tmp_path / f"{i}.wav").write_bytes(encoded(tone(0.4 + 0.2 * i)))
    with running(make_app(config(served_model_name="tiny"), DestaModel.from_pretrained(checkpoint))) as base:
        places = ["--target", f"pytorch={base}/v1", "--bundle", str(bundle), "--clips", str(tmp_path), "--transcript", ""]
        assert bench_serving.main([*places, "--concurrency", "1", "2", "--requests", "5", "--max-tokens", "12"]) == 0
    table = capsys.readouterr().out
    assert table.count("| onnxruntime | ") == 2 and table.count("| 5 | 0 |") == 4 and "5 of 5 answers are the same text in every row" in table


def test_words_go_beside_the_clip_where_every_server_reads_them(tmp_path):
    (tmp_path / "a.wav").write_bytes(encoded(tone()))
    sound = bench_serving.body(tmp_path / "a.wav", "What?", 4, "")["messages"][0]["content"][0]
    assert sound["transcript"] == "" and set(sound["input_audio"]) == {"data", "format"}
    assert "transcript" not in bench_serving.body(tmp_path / "a.wav", "What?", 4, None)["messages"][0]["content"][0]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A made checkpoint."""
    return make_tiny_checkpoint(tmp_path_factory.mktemp("made"))


@pytest.mark.parametrize("kind", ["checkpoint", "training run"])
def test_the_encoders_real_time_factor_is_that_of_a_checkpoint_or_a_run(serve, made, tmp_path, capsys, kind):
    place = made
    if kind == "training run":
        place = tmp_path / "run"
        shutil.copytree(made, place / "checkpoints" / "step=10.ckpt")
    (tmp_path / "a.wav").write_bytes(encoded(tone()))
    (tmp_path / "b.wav").write_bytes(encoded(tone(31.0)))  # longer than the encoder takes at once
    places = ["--target", f"a={serve()}/v1", "--clips", str(tmp_path / "a.wav"), str(tmp_path / "b.wav"), "--concurrency", "1", "--requests", "2"]
    assert bench_serving.main([*places, "--max-tokens", "2", "--checkpoint", str(place)]) == 0
    (factor,) = re.findall(r"encoder and connector: ([0-9.]+) s of work per second of sound \(cpu\)", capsys.readouterr().out)
    assert 0 < float(factor) < 10


def test_a_wrong_checkpoint_is_said_before_anything_is_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench_serving, "measure", lambda *a, **k: pytest.fail("a server was asked"))
    (tmp_path / "a.wav").write_bytes(encoded(tone()))
    places = ["--target", "a=http://127.0.0.1:1/v1", "--clips", str(tmp_path)]
    assert bench_serving.main([*places, "--checkpoint", str(tmp_path)]) == 1 and "is not a checkpoint" in capsys.readouterr().err


def test_mistakes_are_sentences(tmp_path, capsys):
    assert bench_serving.main(["--target", "a=http://127.0.0.1:1/v1", "--clips", str(tmp_path)]) == 1
    assert "error: no .wav, .flac, .mp3 files" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        bench_serving.main(["--target", "http", "--clips", str(tmp_path)])
    for nothing in ([], ["--bundle", str(tmp_path)]):  # neither server nor bundle; a bundle without words for its clips
        with pytest.raises(SystemExit):
            bench_serving.main([*nothing, "--clips", str(tmp_path)])
    assert "--bundle has no Whisper decoder" in capsys.readouterr().err
    (tmp_path / "a.wav").write_bytes(encoded(tone()))
    assert bench_serving.main(["--bundle", str(tmp_path), "--transcript", "", "--clips", str(tmp_path)]) == 1
    assert "has no llm/hf" in capsys.readouterr().err
