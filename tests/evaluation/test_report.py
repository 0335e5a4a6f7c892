import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest
import soundfile
from lhotse import CutSet
from torch.utils.tensorboard import SummaryWriter

from nemo_desta.evaluation.pipeline import _write_scored
from nemo_desta.evaluation.report import write_report
from nemo_desta.evaluation.report.clips import draw_clips
from nemo_desta.evaluation.report.scalars import read_curve, smooth
from nemo_desta.evaluation.runner import GenerationSettings, run_benchmark
from nemo_desta.evaluation.scoring import score_predictions
from nemo_desta.generation.statistics import summary
from nemo_desta.provenance import write_json_atomic
from tests.evaluation.toys import HearingModel
from tests.generation import clips

RETENTION = {"identical": True, "prompts": 1, "different": 0, "rows": [{"prompt": "Why <b>?", "before": "So.", "after": "So.", "identical": True}]}


@pytest.fixture
def run_dir(benchmark, cuts, tmp_path):
    """A finished evaluation of a model that hears, without the files of the other stages."""
    predictions = run_benchmark(
        benchmark, lambda: HearingModel(), tmp_path / "eval" / "predictions.jsonl", run="r", settings=GenerationSettings(), progress=False
    )
    scored = score_predictions(benchmark, predictions)
    _write_scored(tmp_path / "eval" / "scored.jsonl", scored)
    write_json_atomic(tmp_path / "eval" / "summary.json", benchmark.aggregate(scored))
    (tmp_path / "corpus").mkdir()
    CutSet.from_cuts(cuts).to_file(tmp_path / "corpus" / "cuts_test.jsonl.gz")
    return tmp_path


def targets_summary():
    """What target generation itself writes into its manifest: five rows, of which three were kept."""
    asked = [("gender", "female"), ("gender", "male"), ("gender", "male"), ("language", "English"), (None, "")]
    plan = [dataclasses.replace(clips.row(name, **({name: value} if name else {})), row_id=f"r{i}") for i, (name, value) in enumerate(asked)]
    answers = {row.row_id: clips.answer("The speaker is female.") for row in plan}
    reasons = {row.row_id: reason for row, reason in zip(plan, [None, "contradicts", "contradicts", None, None], strict=True)}
    return summary(plan, answers, reasons)


def add_stages(run_dir):
    write_json_atomic(run_dir / "eval" / "retention.json", RETENTION)
    write_json_atomic(run_dir / "targets" / "manifest.json", {"targets": targets_summary(), "other": 1})
    stages = {"corpus": {"minutes": 3.5, "peak_rss_gib": 1.25}, "train": {"minutes": 16.0, "peak_rss_gib": 4.5}}
    write_json_atomic(run_dir / "stages.json", {"stages": stages})
    with SummaryWriter(str(run_dir / "train" / "run" / "v0")) as writer:
        for step in range(0, 100, 10):
            writer.add_scalar("train/loss", 3.0 - step / 50, step)


class Page(HTMLParser):
    """Sources and tags of a page."""

    def __init__(self, text):
        super().__init__()
        self.sources, self.tags = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for key, value in attrs if key == "src"]


def test_results_json_has_the_agreed_keys(run_dir):
    add_stages(run_dir)
    write_report(run_dir)
    results = json.loads((run_dir / "report" / "results.json").read_text())
    assert {"attributes", "retention", "targets", "minutes", "peak_rss_gib"} <= set(results)
    assert set(results["attributes"]) == {"domain", "language", "gender", "genre", "tempo", "sound_class"}
    for row in results["attributes"].values():
        for condition in ("with_audio", "shuffled", "no_audio"):
            low, high = row[condition]["ci95"]
            assert 0 <= low <= row[condition]["accuracy"] <= high <= 1 and row[condition]["n"] == sum(row["values"].values())
        assert 0 < row["majority"] < 1
    assert results["retention"] == {"identical": True, "prompts": 1, "different": 0}
    assert results["targets"]["rows"] == 3 and results["targets"]["asked"] == 5
    assert results["targets"]["yield_by_kind"] == {"attribute": 0.5, "description": 1.0}
    assert results["targets"]["yield_by_attribute"] == {"gender": pytest.approx(1 / 3), "language": 1.0}
    assert results["minutes"] == {"corpus": 3.5, "train": 16.0} and results["peak_rss_gib"] == 4.5
    assert results["notes"] == []


def test_missing_stages_become_null_with_a_note(run_dir):
    (run_dir / "stages.json").write_text('{"stages": ')  # cut off
    results = write_report(run_dir)
    assert results["minutes"] is results["peak_rss_gib"] is results["targets"] is results["retention"] is None
    assert len(results["notes"]) == 4  # stages, targets, retention, loss curve
    assert "No training log" in (run_dir / "report" / "report.html").read_text()


def test_pages_show_figures_and_every_source_exists(run_dir):
    add_stages(run_dir)
    write_report(run_dir)
    folder = run_dir / "report"
    text = (folder / "report.html").read_text()
    page = Page(text)
    assert "figures/accuracy.svg" in page.sources and "figures/loss.svg" in page.sources and "figures/confusion_gender.svg" in page.sources
    assert page.tags.count("audio") == 10
    assert page.sources and all((folder / source).is_file() for source in page.sources)  # nothing from elsewhere: the page works from file://
    assert "http" not in re.sub(r"<pre>.*?</pre>", "", text, flags=re.S)
    assert "100.0 %" in text and "Why &lt;b&gt;?" in text
    markdown = (folder / "report.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", markdown)
    assert links and all((folder / link).is_file() for link in links)
    assert markdown.count("| with audio |") == markdown.count("| no audio |") == 6


def test_pages_say_plainly_which_goals_are_met(run_dir):
    add_stages(run_dir)
    write_json_atomic(run_dir / "eval" / "retention.json", {**RETENTION, "identical": False, "different": 1})
    results = write_report(run_dir)
    assert results["goals"]["retention"]["met"] is False
    assert results["goals"]["gender_accuracy"]["met"] is True
    assert results["goals"]["more_attributes"]["measured"] == 2  # sound class and genre
    assert results["goals"]["minutes"]["met"] is None  # targets and evaluate have no minutes yet
    markdown = (run_dir / "report" / "report.md").read_text()
    assert "| met | Accuracy of gender | ≥ 80 % | 100 % |" in markdown
    assert "| met | Peak memory of any stage | ≤ 8.00 GiB | 4.50 GiB |" in markdown
    page = (run_dir / "report" / "report.html").read_text()
    goals = re.search(r'<table class="goals">.*?</table>', page, re.S).group(0)
    assert re.findall(r">(met|not met|not measured)</td>", goals) == [
        {True: "met", False: "not met", None: "not measured"}[goal["met"]] for goal in results["goals"].values()
    ]
    assert page.index('class="goals"') < page.index('class="results"') and markdown.index("## Goals") < markdown.index("## Accuracy")


def test_what_was_left_out_is_on_the_pages(run_dir):
    summary_path = run_dir / "eval" / "summary.json"
    content = json.loads(summary_path.read_text())
    content["left_out"] |= {
        "unusable_clips": {"toy-<7>": "undecodable"},
        "manifest_problems": {"cuts_test": {"lost_lines": 3, "unknown_fields": 1, "first": "x"}},
    }
    write_json_atomic(summary_path, content)
    write_report(run_dir)
    page, markdown = ((run_dir / "report" / f"report.{kind}").read_text() for kind in ("html", "md"))
    assert "1: toy-&lt;7&gt;" in page and "3 lost lines, 1 unknown fields" in page
    assert "left out: 1 (toy-&lt;7>)" in markdown and "- cuts_test: 3 lost lines" in markdown


def test_clips_are_the_audio_that_was_asked_about(run_dir, benchmark):
    write_report(run_dir, clips=4)
    files = sorted((run_dir / "report" / "clips").iterdir())
    assert [f.name for f in files] == ["01.flac", "02.flac", "03.flac", "04.flac"]
    rows = [json.loads(line) for line in (run_dir / "eval" / "scored.jsonl").read_text().splitlines()]
    first = benchmark.cut(draw_clips(rows, 4, 0)[0]["cut"])
    assert soundfile.read(files[0])[0] == pytest.approx(first.load_audio()[0], abs=1e-4)


def test_drawn_clips_differ_and_take_attributes_in_turn(run_dir):
    rows = [json.loads(line) for line in (run_dir / "eval" / "scored.jsonl").read_text().splitlines()]
    drawn = draw_clips(rows, 10, 0)
    assert len({r["cut"] for r in drawn}) == 10
    assert len({r["track"] for r in drawn[:6]}) == 6
    assert drawn == draw_clips(rows, 10, 0) != draw_clips(rows, 10, 1)
    assert len(draw_clips(rows, 1000, 0)) == len({r["cut"] for r in rows})


def test_a_clip_that_is_gone_leaves_the_page_whole(run_dir):
    write_report(run_dir, find_cut=lambda _: None, clips=2)
    text = (run_dir / "report" / "report.html").read_text()
    assert text.count("cannot be played") == 2 and "<audio" not in text


def test_same_results_give_the_same_figures(run_dir):
    write_report(run_dir)
    first = (run_dir / "report" / "figures" / "accuracy.svg").read_bytes()
    write_report(run_dir)
    assert (run_dir / "report" / "figures" / "accuracy.svg").read_bytes() == first


def test_a_run_without_evaluation_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="holds no evaluation"):
        write_report(tmp_path)


def test_curve_of_a_resumed_run_takes_the_later_record(tmp_path):
    for version, steps, offset in ((0, range(0, 50, 10), 0.0), (1, range(30, 80, 10), 1.0)):
        with SummaryWriter(str(tmp_path / f"v{version}")) as writer:
            for step in steps:
                writer.add_scalar("train/loss", step + offset, step, walltime=1000.0 + version)
    assert read_curve(tmp_path) == [(0, 0), (10, 10), (20, 20), (30, 31), (40, 41), (50, 51), (60, 61), (70, 71)]
    assert read_curve(tmp_path, "absent") == [] == read_curve(tmp_path / "nowhere")


def test_smoothing_keeps_a_constant():
    assert smooth([2.0] * 5, 3) == pytest.approx([2.0] * 5)
    assert smooth([0.0, 1.0], 1) == [0.0, 1.0]
