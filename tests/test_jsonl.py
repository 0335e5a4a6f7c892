"""Lines of JSON files."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_desta.jsonl import DAMAGED_GZIP, text_lines


@given(st.lists(st.text(max_size=8), max_size=5))
def test_every_object_comes_back_whatever_letters_it_holds(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    kept = [text.encode("utf-8", "ignore").decode() for text in texts]  # lone surrogates are no text
    path.write_text("\n\n".join(json.dumps({"text": text + "\u2028\u0085"}, ensure_ascii=False) for text in kept), encoding="utf-8")
    assert [json.loads(line)["text"] for line in text_lines(path)] == [text + "\u2028\u0085" for text in kept]


def test_a_letter_that_a_kill_has_cut_costs_its_line_alone(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n{"a": "\xc3')
    assert text_lines(tmp_path / "a.jsonl", errors="replace") == ['{"a": 1}', '{"a": "\ufffd']
    with pytest.raises(UnicodeDecodeError):
        text_lines(tmp_path / "a.jsonl")


@pytest.mark.parametrize("spoil", [lambda data: data[: len(data) // 2], lambda data: data[:300] + b"\0" * 200 + data[500:], lambda data: b"no gzip"])
def test_every_damage_of_a_gzip_file_is_one_of_these(tmp_path: Path, spoil) -> None:
    data = gzip.compress(json.dumps([i * 7919 for i in range(5000)]).encode())
    (tmp_path / "a.gz").write_bytes(spoil(data))
    with gzip.open(tmp_path / "a.gz") as file, pytest.raises(DAMAGED_GZIP):
        file.read()
