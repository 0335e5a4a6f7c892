import json

import pytest
import yaml

from nemo_desta.evaluation.benchmarks import MODULES
from tools.leaderboard import PUBLISHED, figure_at, main, merge


@pytest.fixture
def run(tmp_path):
    figures = {"primary": {"value": 67.5}, "groups": {"task": {"speech": {"value": 70.0}, "music": {"value": None}}}}
    counts = {"scored": 8, "unparsed": 2, "missing": 0, "error": 0}
    found = {
        "official": {**figures, "counts": counts},
        "strict": {**figures, "primary": {"value": 60.0}, "counts": counts},
        "judged_items": 0,
        "limit": 5,
        "n": 10,
    }
    prompt = {"id": "mmau/desta25", "version": 1, "sha256": "ab" * 32}
    results = {"name": "mine", "model": {"name": "m"}, "judges": [], "benchmarks": {"mmau": {**found, "prompt": prompt}}}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").write_text(json.dumps({**results, "manifest": {"data": {"mmau": {"f.json": "cd" * 32}}}}))
    return tmp_path / "run"


def test_every_published_figure_has_a_source_and_a_known_benchmark():
    published = yaml.safe_load(PUBLISHED.read_text())
    assert published.keys() == MODULES.keys()
    tables = merge([], published, "official")
    rows = [(name, row) for name, table in tables.items() for row in table["rows"]]
    assert rows and all(row["source"] and row["kind"] in ("authors", "third_party") for _, row in rows)
    desta = [row["values"]["avg"] for name, row in rows if name == "mmau" and row["system"] == "DeSTA2.5-Audio"]
    assert desta == [66.0, 59.7]


def test_a_run_stands_at_its_place_with_where_it_comes_from(run, tmp_path, capsys):
    assert main([str(run), "--output", str(tmp_path / "out")]) == 0
    tables = json.loads((tmp_path / "out" / "leaderboard.json").read_text())
    assert tables.keys() == {"mmau"}
    systems = [row["system"] for row in tables["mmau"]["rows"]]
    assert systems.index("Kimi-Audio") + 1 == systems.index("mine: m") == systems.index("DeSTA2.5-Audio") - 1
    text = (tmp_path / "out" / "leaderboard.md").read_text()
    line = "| **mine: m** | this run | 67.50 | 70.00 | – | – | prompt mmau/desta25 v1 (abababab); official; data cdcdcdcd; limit 5 (2 unparsed) |"
    assert line in text and "mine: m" in capsys.readouterr().out
    (row,) = [row for row in merge([run], yaml.safe_load(PUBLISHED.read_text()), "strict")["mmau"]["rows"] if row["kind"] == "run"]
    assert row["values"]["avg"] == 60.0


def test_no_figure_is_cut_off_on_a_narrow_console(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([]) == 0
    said = capsys.readouterr().out
    tables = merge([], yaml.safe_load(PUBLISHED.read_text()), "official")
    assert all(f" {value:.2f} " in said for table in tables.values() for row in table["rows"] for value in row["values"].values())
    assert "…" not in said and "heldout" not in said  # of the held-out questions nothing is published


def test_mistakes_are_told(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2 and "holds no results.json" in capsys.readouterr().err
    (tmp_path / "p.yaml").write_text("mmau: {title: t, figures: {avg: primary}, rows: [{system: s, kind: authors, values: {avg: 1}}]}")
    assert main(["--published", str(tmp_path / "p.yaml")]) == 2 and "needs a source" in capsys.readouterr().err


def test_a_figure_that_is_not_there_is_none():
    assert figure_at({"groups": {"task": {"speech": {"value": 1}}}}, "groups/task/speech") == 1.0
    assert figure_at({"groups": {"subset": {"a": {"value": 80, "rating": 4}}}}, "groups/subset/a/rating") == 4.0
    assert figure_at({"groups": {}}, "groups/task/speech") is None and figure_at({"primary": {"value": None}}, "primary") is None
