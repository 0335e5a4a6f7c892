"""The tools on manifests with known contents and known faults."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_desta.manifests.duplicates import decontaminate, dedup, read_benchmark
from nemo_desta.manifests.records import group_of
from nemo_desta.manifests.selecting import describe_cut, find, merge, sample
from nemo_desta.manifests.sinks import open_sink
from nemo_desta.manifests.sources import Problems, records
from nemo_desta.manifests.splitting import assign
from nemo_desta.manifests.stats import quantiles, statistics
from nemo_desta.manifests.text_match import TextIndex, near_duplicates, similarity, word_pairs, words
from nemo_desta.manifests.validate import validate
from tests.manifests.cuts import cut, manifest, target
from tests.manifests.rows import clip, read_rows, write_rows
from tools.manifests import main

# --- reading ---------------------------------------------------------------------------------------------------------------------------


def test_a_truncated_line_costs_itself_only(tmp_path):
    path = manifest(tmp_path, [cut(0, tmp_path), b'{"id": "c1", "dur', b"\n", cut(2, tmp_path), b'{"id": 3}\n', b'{"id": "c4", "duration": 1'], audio=False)
    problems = Problems()
    assert [r["id"] for r in records(path, problems)] == ["c0", "c2"]
    assert problems.counts == {"damaged line": 3} and "line 5: skipped, cut off" in problems.sentences[2]


@pytest.mark.parametrize("kind", ["out.jsonl", "out.jsonl.gz", "store"])
def test_what_is_written_is_read_back(tmp_path, kind):
    made = [cut(i, tmp_path) for i in range(7)]
    with open_sink(tmp_path / kind, shard_lines=3) as sink:
        for record in made:
            sink.write(record)
    assert list(records(tmp_path / kind)) == made
    with pytest.raises(ValueError, match="--overwrite"), open_sink(tmp_path / kind):
        pass
    with open_sink(tmp_path / kind, overwrite=True) as sink:
        sink.write(made[0])
    assert list(records(tmp_path / kind)) == made[:1]


def test_two_writers_of_one_output(tmp_path):
    for name in ("out.jsonl", "store"):
        with open_sink(tmp_path / name) as sink:
            sink.write(cut(0, tmp_path))
            with pytest.raises(ValueError, match="is being written by"), open_sink(tmp_path / name):
                pass
        assert [r["id"] for r in records(tmp_path / name)] == ["c0"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.jsonl", "store"]


def test_a_failed_writer_leaves_the_old_output(tmp_path):
    for name in ("out.jsonl", "out.jsonl.gz"):
        with open_sink(tmp_path / name) as sink:
            sink.write(cut(0, tmp_path))
        with pytest.raises(RuntimeError), open_sink(tmp_path / name, overwrite=True) as sink:
            sink.write(cut(1, tmp_path))
            raise RuntimeError
        assert [r["id"] for r in records(tmp_path / name)] == ["c0"] and not list(tmp_path.glob("*.part"))
    with pytest.raises(RuntimeError), open_sink(tmp_path / "store") as sink:
        raise RuntimeError
    with pytest.raises(ValueError, match="neither an indexed store"):
        list(records(tmp_path / "store"))


def test_a_store_whose_shard_is_cut_off_is_refused(tmp_path):
    with open_sink(tmp_path / "store") as sink:
        for i in range(4):
            sink.write(cut(i, tmp_path))
    shard = tmp_path / "store/cuts.000000.jsonl"
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(ValueError, match="cut off or was changed"):
        list(records(tmp_path / "store"))


def test_mistaken_paths(tmp_path):
    with pytest.raises(FileNotFoundError, match="no manifest at"):
        list(records(tmp_path / "none.jsonl"))
    with pytest.raises(ValueError, match=r"'\.json'"), open_sink(tmp_path / "x.json"):
        pass


# --- stats -----------------------------------------------------------------------------------------------------------------------------


def test_statistics_are_those_counted_by_hand(tmp_path):
    made = [
        cut(0, tmp_path, seconds=1.0, source={"gender": "male"}, rows=[target(0, response="one two three"), target(1, "Describe it.", "one")]),
        cut(1, tmp_path, seconds=3.0, source={"gender": "male", "custom": {"emotion": "sad"}}, rows=[target(2, response="a b", prompt_kind="open")]),
        cut(2, tmp_path, seconds=8.0, source={"text": None}, rows=[], dataset="noise", domain="sound"),
    ]
    report = statistics(made)
    total = report["total"]
    assert (total["clips"], total["rows"], total["hours"], total["clips_with_transcript"]) == (3, 3, round(12 / 3600, 4), 2)
    assert total["attributes"]["gender"] == {"male": 2} and total["attributes"]["emotion"] == {"sad": 1}
    assert total["prompt_kinds"] == {"question": 1, "instruction": 1, "open": 1} and total["different_prompts"] == 2
    assert total["response_words"] == {"mean": 2.0, "5%": 1, "median": 2, "95%": 3, "largest": 3}
    assert total["duration_histogram"]["<2"] == 1 and total["duration_histogram"]["<5"] == 1 and total["duration_histogram"]["<10"] == 1
    assert set(report["datasets"]) == {"toy", "noise"} and report["domains"]["sound"]["rows"] == 0 and report["domains"]["speech"]["generators"] == {"tiny": 3}


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1))
def test_quantiles_agree_with_sorting(values):
    found = quantiles(Counter(values))
    assert found["largest"] == max(values) and found["mean"] == pytest.approx(sum(values) / len(values), abs=0.006)
    assert found["median"] == sorted(values)[(len(values) - 1) // 2]


def test_stats_command(tmp_path, capsys):
    path = manifest(tmp_path, [cut(i, tmp_path) for i in range(5)], audio=False)
    assert main(["stats", "--manifest", str(path), "--report", str(tmp_path / "r.json"), "--plots", str(tmp_path / "plots")]) == 0
    assert "toy" in capsys.readouterr().out and json.loads((tmp_path / "r.json").read_text())["total"]["clips"] == 5
    assert {p.name for p in (tmp_path / "plots").iterdir()} == {"hours.png", "durations.png", "responses.png", "attributes.png"}


# --- validate --------------------------------------------------------------------------------------------------------------------------


def test_a_sound_manifest_is_fit(tmp_path, capsys):
    path = manifest(tmp_path, [cut(i, tmp_path) for i in range(4)])
    for audio in ("none", "header", "decode"):
        findings = validate(path, audio=audio)
        assert not findings.errors and not findings.warnings and (findings.checked, findings.rows) == (4, 4)
    assert main(["validate", "--manifest", str(path)]) == 0 and "\nfit for training" in capsys.readouterr().out


LEAK = "[00:00-00:01] words of clip 0 (Gender: male)"
FAULTS = {
    "test split": {"split": "test-clean"},
    "missing field": {"dataset": None},
    "unknown domain": {"domain": "noise"},
    "bad duration": {"seconds": 31.0},
    "leaking transcript": {"source": {"text": LEAK}},
    "bad transcript": {"source": {"text": "he says <|AUDIO|>"}},
    "clashing attributes": {"source": {"gender": "male", "custom": {"gender": "female"}}},
    "empty response": {"rows": [target(0, response=" ")]},
    "no messages": {"rows": [target(0, messages=None)]},
    "number of locators": {"rows": [target(0, messages=[{"role": "user", "content": "What?"}])]},
    "no source supervision": None,
}


@pytest.mark.parametrize("kind", FAULTS)
def test_validate_finds(tmp_path, kind):
    options = FAULTS[kind]
    bad = cut(0, tmp_path, **options) if options is not None else {**cut(0, tmp_path), "supervisions": [target(0)]}
    findings = validate(manifest(tmp_path, [bad, cut(1, tmp_path)], audio=False), audio="none")
    assert set(findings.errors) == {kind} and findings.errors[kind] == 1 and findings.examples[kind][0].startswith("c0: ")


def test_validate_warns_of_implausible_transcripts(tmp_path):
    path = manifest(tmp_path, [cut(0, tmp_path, source={"text": "blah " * 40}), cut(1, tmp_path, source={"text": "..."})], audio=False)
    assert validate(path, audio="none").warnings == {"implausible transcript": 2}


def test_validate_compares_cuts_with_each_other(tmp_path):
    same_sound = {**cut(1, tmp_path), "id": "c1-again", "supervisions": [{**cut(1, tmp_path)["supervisions"][0], "custom": {"emotion": "sad"}}]}
    two_genders = [cut(6, tmp_path, source={"speaker": "x", "gender": "male"}), cut(7, tmp_path, source={"speaker": "x", "gender": "female"})]
    path = manifest(tmp_path, [cut(0, tmp_path), cut(0, tmp_path), cut(1, tmp_path), same_sound, *two_genders], audio=False)
    findings = validate(path, audio="none")
    assert findings.errors == {"duplicate id": 1, "clashing attributes": 2}
    assert "speaker toy/x: gender is 'male' and 'female'" in "".join(findings.examples["clashing attributes"])


@pytest.mark.parametrize("jobs", [1, 2])
def test_validate_opens_the_audio(tmp_path, jobs):
    made = [cut(i, tmp_path) for i in range(6)]
    path = manifest(tmp_path, made)
    (tmp_path / "1.wav").unlink()
    (tmp_path / "2.wav").write_bytes(b"RIFF")
    clip(tmp_path / "3.wav", 0.5)
    clip(tmp_path / "4.wav", 1.0, rate=8000)
    data = (tmp_path / "5.wav").read_bytes()
    (tmp_path / "5.wav").write_bytes(data[:44] + bytes(len(data) - 44))
    assert validate(path, num_jobs=jobs).errors == {"missing audio": 1, "unreadable audio": 1, "other duration": 2}
    assert validate(path, audio="decode", num_jobs=jobs).errors["silent audio"] == 1
    with pytest.raises(ValueError, match="none, header, decode"):
        validate(path, audio="all")


def test_an_empty_manifest_is_an_error(tmp_path):
    (tmp_path / "e.jsonl").touch()
    assert validate(tmp_path / "e.jsonl").errors == {"empty manifest": 1}


# --- duplicates ------------------------------------------------------------------------------------------------------------------------


def copied(path: Path, output: Path, function, *arguments, **options):
    with open_sink(output, overwrite=True) as sink:
        removal = function(path, sink, *arguments, **options)
    return [r["id"] for r in read_rows(output)], removal


def test_dedup_by_id_and_row(tmp_path):
    again = {**cut(1, tmp_path), "id": "other"}  # the same sound, prompt and response
    asked_more = {**again, "id": "more", "supervisions": [again["supervisions"][0], target(9, "Who speaks?")]}
    path = manifest(tmp_path, [cut(0, tmp_path), cut(1, tmp_path), cut(0, tmp_path), again, asked_more], audio=False)
    kept, removal = copied(path, tmp_path / "o.jsonl", dedup)
    assert kept == ["c0", "c1", "more"] and removal.counts == {"same id": 1, "same row": 1}
    assert removal.removed == [{"id": "c0", "reason": "same id", "like": "c0"}, {"id": "other", "reason": "same row", "like": "c1"}]
    assert copied(path, tmp_path / "o.jsonl", dedup, by=("id",))[0] == ["c0", "c1", "other", "more"]
    with pytest.raises(ValueError, match="the ways are id, row, audio, text"):
        copied(path, tmp_path / "x.jsonl", dedup, by=("sound",))


@pytest.mark.parametrize("jobs", [1, 2])
def test_dedup_by_audio_hears_copies_under_other_names(tmp_path, jobs):
    path = manifest(tmp_path, [cut(i, tmp_path, seconds=1.0 + (i == 3)) for i in range(5)])
    (tmp_path / "4.wav").write_bytes((tmp_path / "1.wav").read_bytes())
    (tmp_path / "2.wav").write_bytes(b"broken")
    kept, removal = copied(path, tmp_path / "o.jsonl", dedup, by=("audio",), num_jobs=jobs)
    assert kept == ["c0", "c1", "c2", "c3"] and removal.removed[0]["like"] == "c1"


def test_dedup_by_text(tmp_path):
    texts = [
        "the quick brown fox jumps over the lazy dog today",
        "The quick brown fox, jumps over the lazy dog today!",
        "a wholly different text is said here",
        "yes",
        "yes",
    ]
    path = manifest(tmp_path, [cut(i, tmp_path, source={"text": t}) for i, t in enumerate(texts)], audio=False)
    kept, removal = copied(path, tmp_path / "o.jsonl", dedup, by=("text",))
    assert kept == ["c0", "c2", "c3", "c4"] and removal.counts == {"same text": 1}


@pytest.mark.parametrize("count", [5, 80])
def test_near_duplicates_are_those_of_all_pairs(count):
    import random

    rng = random.Random(count)
    vocabulary = [f"w{i}" for i in range(40)]
    base = [" ".join(rng.choices(vocabulary, k=12)) for _ in range(count // 2)]
    texts = base + [" ".join(w if rng.random() > 0.03 else "zzz" for w in t.split()) for t in base] + [None, "too short"]
    found = near_duplicates(lambda: texts, 0.8)
    wanted = {j for j in range(len(texts)) for i in range(j) if similarity(word_pairs(texts[i]), word_pairs(texts[j])) >= 0.8}
    assert set(found) == wanted and len(wanted) >= count // 8
    assert all(similarity(word_pairs(texts[i]), word_pairs(texts[j])) == pytest.approx(s, abs=1e-3) for j, (i, s) in found.items())


def test_words_of_scripts_without_blanks():
    assert words("我每个月打一次电话。") == list("我每个月打一次电话") and words("It's 5.") == ["it", "s", "5"]
    assert TextIndex(["我每个月打一次电话", "something else entirely different"]).best("我每个月打一次电话吧")[0] == pytest.approx(8 / 9)


def test_decontaminate(tmp_path):
    made = [cut(i, tmp_path / "audio") for i in range(6)]
    made[2]["supervisions"][0]["text"] = "What emotion does the speaker show in this recording"
    made[3]["supervisions"][1] = target(3, "how many speakers are talking in the given clip")
    path = manifest(tmp_path, made)
    (tmp_path / "ids.txt").write_text("bench/0.wav\nspeech\n\n")
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench/q1.wav").write_bytes((tmp_path / "audio/4.wav").read_bytes())
    write_rows(
        tmp_path / "q.jsonl",
        [{"question": "What emotion does the speaker show in this recording?"}, {"question": "How many speakers are talking in the given clip?"}],
    )
    benchmark = read_benchmark([tmp_path / "ids.txt"], [tmp_path / "bench"], [tmp_path / "q.jsonl"])
    kept, removal = copied(path, tmp_path / "o.jsonl", decontaminate, benchmark)
    assert kept == ["c1", "c5"] and removal.counts == {"id": 1, "text": 2, "audio": 1}
    assert removal.removed[0]["like"] == "0" and removal.removed[-1]["like"].endswith("q1.wav")
    with pytest.raises(ValueError, match="nothing to compare"):
        copied(path, tmp_path / "x.jsonl", decontaminate, read_benchmark())
    with pytest.raises(ValueError, match="name one of question with --text-field"):
        read_benchmark(texts=[tmp_path / "q.jsonl"], fields=["prompt"])


def test_a_further_clip_of_a_row_is_compared_too(tmp_path):
    made = [cut(i, tmp_path / "audio") for i in range(4)]
    for i in (1, 2):
        made[i]["supervisions"][-1]["custom"]["clips"] = [{key: value for key, value in made[0 if i == 1 else 3].items() if key != "supervisions"}]
    path = manifest(tmp_path, made)
    (tmp_path / "ids.txt").write_text("0\n")
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench/q1.wav").write_bytes((tmp_path / "audio/3.wav").read_bytes())
    kept, removal = copied(path, tmp_path / "o.jsonl", decontaminate, read_benchmark([tmp_path / "ids.txt"], [tmp_path / "bench"]))
    assert kept == [] and removal.counts == {"id": 2, "audio": 2}


def test_what_could_not_be_read_shows_in_the_exit_code(tmp_path, capsys):
    path = manifest(tmp_path, [*(cut(i, tmp_path) for i in range(4)), b'{"id": "torn'], audio=False)
    source = ["--manifest", str(path), "--output"]
    assert main(["dedup", *source, str(tmp_path / "d.jsonl")]) == 1 and "line 5" in capsys.readouterr().err
    assert main(["sample", *source, str(tmp_path / "s.jsonl"), "--number", "2"]) == 1
    assert main(["merge", "--manifests", str(path), "--output", str(tmp_path / "m.jsonl")]) == 1
    assert main(["split", "--manifest", str(path), "--output-dir", str(tmp_path / "p"), "--fractions", "a=0.5,b=0.5"]) == 1
    assert [r["id"] for r in read_rows(tmp_path / "d.jsonl")] == ["c0", "c1", "c2", "c3"]
    (tmp_path / "empty.jsonl").touch()
    assert main(["stats", "--manifest", str(tmp_path / "empty.jsonl")]) == 1 and "holds no cut" in capsys.readouterr().err
    assert main(["decontaminate", *source, str(tmp_path / "c.jsonl"), "--ids", str(tmp_path / "none.txt")]) == 2
    assert "none.txt: name the benchmark's own files" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["validate", "--manifest", str(path), "--num-jobs", "0"])
    assert "no whole number above 0" in capsys.readouterr().err


def test_benchmark_texts_of_every_kind(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "b.json").write_text('[{"question": "three"}]')
    (tmp_path / "c.csv").write_text("id,text\n1,four\n")
    assert read_benchmark(texts=[tmp_path / n for n in ("a.txt", "b.json", "c.csv")]).texts == ["one", "two", "three", "four"]


# --- split, merge, sample, show --------------------------------------------------------------------------------------------------------


def test_split_divides_no_speaker(tmp_path, capsys):
    made = [cut(i, tmp_path, source={"speaker": f"p{i % 20}"}) for i in range(200)]
    path = manifest(tmp_path, made, audio=False)
    command = ["split", "--manifest", str(path), "--output-dir", str(tmp_path / "parts"), "--fractions", "train=0.8,validation=0.1,test=0.1"]
    assert main(command) == 0
    parts = {name: list(records(tmp_path / f"parts/{name}.jsonl.gz")) for name in ("train", "validation", "test")}
    assert {name: len(p) for name, p in parts.items()} == {"train": 160, "validation": 20, "test": 20}
    groups = {name: {group_of(r) for r in p} for name, p in parts.items()}
    assert not groups["train"] & groups["validation"] and not groups["train"] & groups["test"] and not groups["test"] & groups["validation"]
    assert all(r["custom"]["split"] == name for name, p in parts.items() for r in p) and sorted(r["id"] for p in parts.values() for r in p) == sorted(
        m["id"] for m in made
    )
    assert main([*command, "--overwrite", "--store", "--seed", "1"]) == 0
    assert {r["id"] for r in records(tmp_path / "parts/test")} != {r["id"] for r in parts["test"]}
    capsys.readouterr()
    assert main([*command, "--by", "colour"]) == 2 and "no 'colour'" in capsys.readouterr().err
    assert main([*command, "--fractions", "train=0.9"]) == 2 and "add up to 1" in capsys.readouterr().err


def test_a_row_whose_clips_are_in_two_parts_is_left_out_of_a_split(tmp_path, capsys):
    made = [cut(i, tmp_path, source={"speaker": f"p{i % 10}"}) for i in range(60)]
    for i in range(0, 60, 2):
        made[i]["supervisions"].append(target(1000 + i, clips=[{k: v for k, v in made[(i + 7 + i // 10) % 60].items() if k != "supervisions"}]))
    path = manifest(tmp_path, made, audio=False)
    assert main(["split", "--manifest", str(path), "--output-dir", str(tmp_path / "parts"), "--fractions", "train=0.7,test=0.3"]) == 0
    parts = {name: list(records(tmp_path / f"parts/{name}.jsonl.gz")) for name in ("train", "test")}
    assert sum(len(p) for p in parts.values()) == 60
    heard = {name: {clip["id"] for r in p for row in r["supervisions"][1:] for clip in row["custom"].get("clips", ())} for name, p in parts.items()}
    assert any(heard.values()) and all(heard[name] <= {r["id"] for r in p} for name, p in parts.items())
    kept = sum(len(r["supervisions"]) == 3 for p in parts.values() for r in p)
    assert 0 < kept < 30 and f"{30 - kept} rows about several clips left out" in capsys.readouterr().out
    shown = describe_cut(*find(path, "c0"))
    assert shown["rows"][1]["further_clips"] == [{"id": "c7", "file": str(tmp_path / "7.wav"), "start": 0.0, "seconds": 1.0}]
    assert main(["show", "--manifest", str(path), "c0"]) == 0 and "7.wav" in capsys.readouterr().out


def test_rows_that_hear_other_further_clips_are_no_repetition(tmp_path):
    made = [{**cut(0, tmp_path, rows=[target(0, clips=[cut(i, tmp_path, rows=[])])]), "id": f"x{i}-{n}"} for i in (1, 2) for n in range(2)]
    kept, removal = copied(manifest(tmp_path, made, audio=False), tmp_path / "o.jsonl", dedup)
    assert kept == ["x1-0", "x2-0"] and removal.counts == {"same row": 2}


def test_a_split_is_a_function_of_the_groups():
    sizes = {f"g{i}": 1 + i % 5 for i in range(50)}
    parts = assign(sizes, {"a": 0.7, "b": 0.3}, seed=0)
    assert parts == assign(dict(reversed(sizes.items())), {"a": 0.7, "b": 0.3}, seed=0) and set(parts) == set(sizes)
    assert sum(sizes[g] for g, p in parts.items() if p == "b") == pytest.approx(0.3 * sum(sizes.values()), abs=3)
    with pytest.raises(ValueError, match="no group is left for 'b'"):
        assign({"one": 5}, {"a": 0.5, "b": 0.5}, seed=0)


def test_merge(tmp_path, capsys):
    a, b = (
        manifest(tmp_path, [cut(0, tmp_path), cut(1, tmp_path)], "a.jsonl", audio=False),
        manifest(tmp_path, [cut(1, tmp_path), cut(2, tmp_path)], "b.jsonl", audio=False),
    )
    command = ["merge", "--manifests", str(a), str(b), "--output", str(tmp_path / "m.jsonl")]
    assert main(command) == 2 and "the id 'c1' came before" in capsys.readouterr().err and not (tmp_path / "m.jsonl").exists()
    assert main([*command, "--on-duplicate", "skip"]) == 0 and [r["id"] for r in read_rows(tmp_path / "m.jsonl")] == ["c0", "c1", "c2"]
    with open_sink(tmp_path / "r.jsonl") as sink:
        assert merge([a, b, b], sink, on_duplicate="rename") == {"cuts": 6, "duplicates": 3}
    assert [r["id"] for r in read_rows(tmp_path / "r.jsonl")] == ["c0", "c1", "c1~2", "c2", "c1~3", "c2~2"]
    assert read_rows(tmp_path / "r.jsonl")[2]["supervisions"][1]["id"] == "row-1~2"


def test_sample(tmp_path):
    made = [cut(i, tmp_path, dataset="a" if i < 80 else "b") for i in range(100)]
    path = manifest(tmp_path, made, audio=False)

    def drawn(source: Path, **options):
        with open_sink(tmp_path / "s.jsonl", overwrite=True) as sink:
            sample(source, sink, **options)
        return [r["id"] for r in read_rows(tmp_path / "s.jsonl")]

    ten, twenty = drawn(path, number=10), drawn(path, number=20)
    assert len(ten) == 10 and set(ten) < set(twenty) and ten == [m["id"] for m in made if m["id"] in ten] and drawn(path, number=10, seed=1) != ten
    backwards = manifest(tmp_path, made[::-1], "back.jsonl", audio=False)
    assert set(drawn(backwards, number=10)) == set(ten)
    assert sorted(int(i[1:]) >= 80 for i in drawn(path, number=5, per="dataset")) == [False] * 5 + [True] * 5
    assert 10 < len(drawn(path, fraction=0.25)) < 45 and len(drawn(path, fraction=1.0)) == 100
    for options in ({}, {"number": 1, "fraction": 0.1}, {"number": 0}, {"fraction": 1.5}, {"number": 1, "per": "colour"}, {"fraction": 0.1, "per": "dataset"}):
        with pytest.raises(ValueError):
            drawn(path, **options)


def test_show(tmp_path, capsys):
    made = [cut(i, tmp_path, source={"gender": "male"}, origin="package/x") for i in range(3)]
    path = manifest(tmp_path, made, audio=False)
    with open_sink(tmp_path / "store") as sink:
        for record in made:
            sink.write(record)
    for which in ("c1", "row-1", "#1"):
        for source in (path, tmp_path / "store"):
            record, where = find(source, which)
            assert record["id"] == "c1" and str(source) in where
    shown = describe_cut(record, where)
    assert (
        shown["attributes"] == {"gender": "male", "speaker": "p1"}
        and shown["origin"]["origin"] == "package/x"
        and shown["rows"][0]["response"] == "Answer number 1."
    )
    assert main(["show", "--manifest", str(path), "row-1"]) == 0
    printed = capsys.readouterr().out
    for part in (
        "c1",
        "gender: male",
        "words of clip 1 (Gender: male)",
        "What do you hear?",
        "Answer number 1.",
        "model: tiny",
        "package/x",
        "1.wav",
        "line 2",
    ):
        assert part in printed
    assert main(["show", "--manifest", str(path), "nothing"]) == 2 and "neither a cut nor a row" in capsys.readouterr().err


def test_index_in_place(tmp_path, capsys):
    path = manifest(tmp_path / "f", [cut(0, tmp_path), b"garbage\n", cut(2, tmp_path, rows=[target(2), target(3)])], audio=False)
    assert main(["index", "--jsonl", str(path)]) == 1 and "line 2" in capsys.readouterr().err
    from nemo_desta.manifests.store import IndexedStore

    store = IndexedStore(tmp_path / "f")
    assert store.rows.tolist() == [1, 0, 2] and store.record(2)["id"] == "c2" and store.total_rows == 3
    path.write_bytes(path.read_bytes() + b'{"id": "half')
    assert main(["index", "--jsonl", str(path)]) == 2 and "head -n 3" in capsys.readouterr().err
