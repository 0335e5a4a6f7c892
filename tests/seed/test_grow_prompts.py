import importlib.util
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from nemo_desta.seed.prompts import load_pool, read_prompts

SCRIPT = Path(__file__).parents[2] / "tools" / "grow_prompts.py"
spec = importlib.util.spec_from_file_location("grow_prompts", SCRIPT)
assert spec is not None and spec.loader is not None
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

GROUP = {"domain": "speech", "kind": "attribute", "attribute": "gender", "requires": []}
ANSWER = """Here you go
1. Is the speaker male or female?
2) "Would a listener guess that a gentleman or a lady recorded it?"
- Who lent the voice, some lady or some gentleman?
* <|AUDIO|> who?
Who lent the voice, some lady or some gentleman?
Hm.
"""


def test_answers_are_stripped_and_refused():
    texts, refused = tool.grow(lambda text, seed: ANSWER, load_pool(), GROUP, 10, max_requests=2)
    assert texts == ["Would a listener guess that a gentleman or a lady recorded it?", "Who lent the voice, some lady or some gentleman?"]
    assert refused["near duplicate"] >= 4 and refused["control characters"] == 2 and refused["length"] == 2 and refused["no sentence end"] == 2


def test_stops_when_it_has_enough():
    calls = []
    tool.grow(lambda text, seed: calls.append(seed) or ANSWER, load_pool(), GROUP, 2)
    assert calls == [0]


def test_request_names_the_attribute_but_no_answer():
    text = tool.request_text({**GROUP, "attribute": "speaking_rate"}, ["How fast?"])
    assert "speaking rate" in text and "How fast?" in text and "Do not state the answer" in text


def test_written_file_is_appended_and_valid(tmp_path):
    out = tmp_path / "grown.yaml"
    tool.write_group(out, "one", GROUP, ["A man or a lady?"])
    tool.write_group(out, "two", {**GROUP, "attribute": "pitch"}, ["High or low: which?"])
    assert [(p.text, p.attribute) for p in read_prompts(out)] == [("A man or a lady?", "gender"), ("High or low: which?", "pitch")]
    before = out.read_bytes()
    with pytest.raises(ValueError, match="unknown attribute"):
        tool.write_group(out, "three", {**GROUP, "requires": ["shoe_size"]}, ["Which size?"])
    assert out.read_bytes() == before


@pytest.fixture
def endpoint():
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/v1/chat/completions" and body["model"] == "m"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"choices": [{"message": {"content": ANSWER}}]}).encode())

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_command_line_with_an_endpoint(tmp_path, endpoint, capsys):
    out = tmp_path / "new" / "grown.yaml"
    arguments = [
        "--domain",
        "speech",
        "--kind",
        "attribute",
        "--attribute",
        "gender",
        "--count",
        "2",
        "--endpoint",
        endpoint,
        "--model",
        "m",
        "--out",
        str(out),
    ]
    assert tool.main(arguments) == 0
    assert "2 new prompts" in capsys.readouterr().out
    assert yaml.safe_load(out.read_text())[0]["group"] == "grown-speech-gender"
    assert len(load_pool([Path(tool.load_pool.__code__.co_filename).parent / "pool", out])) == len(load_pool()) + 2
    assert tool.main([*arguments, "--seed", "1"]) == 1, "everything is known by now"


def test_what_is_wrong_is_said_before_the_model_is_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tool, "endpoint_model", lambda *args: pytest.fail("the model was asked"))
    common = ["--domain", "speech", "--count", "2", "--endpoint", "http://127.0.0.1:9/v1", "--out", str(tmp_path / "new" / "grown.yaml")]
    wrong = {
        "unknown attribute ['shoe_size']": ["--kind", "attribute", "--attribute", "shoe_size"],
        "unknown attribute ['hat_size']": ["--kind", "reasoning", "--requires", "hat_size"],
        "the group's name": ["--kind", "reasoning", "--group", "Bad Name"],
        "missing.yaml": ["--kind", "reasoning", "--pool", str(tmp_path / "missing.yaml")],
    }
    for message, arguments in wrong.items():
        with pytest.raises(SystemExit):
            tool.main([*common, *arguments])
        assert message in capsys.readouterr().err


def test_dead_endpoint_is_one_sentence(tmp_path):
    with pytest.raises(SystemExit, match="is the server up"):
        tool.endpoint_model("http://127.0.0.1:9/v1", "m", 0.9, 2.0)("hello", 0)
