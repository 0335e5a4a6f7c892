"""What a run has listed before it was killed."""

import json

from nemo_desta.models.lines import keep_lines


def test_lines_after_the_checkpoint_and_a_cut_one_are_left_out(tmp_path):
    path = tmp_path / "records.jsonl"
    keep_lines(path, lambda line: True)
    assert not path.exists()
    lines = [json.dumps({"step": step, "text": "ä}\u2028"}, ensure_ascii=False) + "\n" for step in (2, 4, 6)]
    path.write_text("".join(lines) + '{"step": 2, "te', encoding="utf-8")
    keep_lines(path, lambda line: line["step"] <= 4)
    assert path.read_text(encoding="utf-8") == "".join(lines[:2]) and [file.name for file in tmp_path.iterdir()] == ["records.jsonl"]
