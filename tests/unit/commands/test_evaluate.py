"""Whatever is asked of a checkpoint, it is read once; the rows and files are those of the list."""

import csv
import json
import shutil
from pathlib import Path

import cli
import numpy as np
import pytest
import torch

import itm.checkpoints.folder as folder
from itm import evaluate
from itm.app import entry
from itm.matcher.saved import save
from itm.models import SCAN, VSRN
from itm.runs.run_files import read_ranks
from itm.text.vocabulary import Vocabulary

CAPTIONS = ["a red dog", "a dog runs", "two cats", "a cat sits", "a bird", "one blue bird"]


def make_data(tmp_path):
    """A small split and a saved matcher."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "test_ims.npy", rng.normal(size=(3, 4, 8)).astype(np.float32))
    (tmp_path / "test_caps.txt").write_text("\n".join(CAPTIONS) + "\n")
    vocab = Vocabulary.build(CAPTIONS, 1)
    torch.manual_seed(0)
    sizes = {"word_dim": 4, "embed_dim": 8, "caption_dim": 8, "caption_word_dim": 4}
    matcher = VSRN(len(vocab), img_dim=8, **sizes).eval()
    matcher.vocab = vocab
    save(matcher, tmp_path / "saved")


def evaluate_here(monkeypatch, *options):
    common = ["data=flickr8k", "data.root=.", "plot=false", "hydra.run.dir=out"]
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # as the entry point does
    monkeypatch.setattr("sys.argv", ["itm.evaluate", *common, *options])
    entry.call("evaluate", evaluate.command)


def test_a_checkpoint_is_loaded_once(tmp_path, monkeypatch, capsys):
    make_data(tmp_path)
    loaded, load = [], folder.load
    monkeypatch.setattr(folder, "load", lambda path, *a: (loaded.append(path), load(path, *a))[1])
    monkeypatch.chdir(tmp_path)
    shutil.copytree("saved", "copy")
    evaluate_here(monkeypatch, "checkpoint=[saved,copy]", "describe=true")
    assert loaded == ["saved", "copy"]
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert list(report["results"]) == ["saved", "copy", "ensemble of 2"]
    assert len(report["checkpoints"]) == 2 and list(report["captioning"]) == ["saved", "copy"]
    assert len((tmp_path / "out/described_0.txt").read_text().splitlines()) == 3
    assert {p.name for p in (tmp_path / "out").glob("ranks_*")} == {
        f"ranks_{i}.npz" for i in range(3)
    }
    out = capsys.readouterr().out
    assert "saved: bleu_1" in out
    assert "warning: saved and copy give every pair the same score" in out


def test_a_member_that_comes_twice_is_refused(tmp_path, monkeypatch):
    """Under whatever path: an ensemble would count it twice."""
    make_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to("saved")
    np.save("a.npy", np.zeros((3, 6), np.float32))
    for other in ("saved", "./saved", "saved/", str(tmp_path / "saved"), "../saved", "link"):
        other = f"saved/{other}" if other == "../saved" else other
        with pytest.raises(
            ValueError, match=r"checkpoint= names \S+/model.safetensors .* leave one out"
        ):
            evaluate_here(monkeypatch, f"checkpoint=[saved,{other}]")
    run = tmp_path / "run/checkpoints"
    run.mkdir(parents=True)
    (run / "best.ckpt").touch()
    for other in ("run/checkpoints", "run/checkpoints/best.ckpt"):
        with pytest.raises(ValueError, match="run/checkpoints/best.ckpt as run and as"):
            evaluate_here(monkeypatch, f"checkpoint=[run,{other}]")
    with pytest.raises(ValueError, match="similarity= names a.npy as a.npy and as ./a.npy"):
        evaluate_here(monkeypatch, "similarity=[a.npy,./a.npy]")
    assert not list(tmp_path.glob("out/report.json"))


def test_failures_and_queries_are_written_and_nothing_is_mixed(tmp_path, monkeypatch, capsys):
    make_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    evaluate_here(monkeypatch, "checkpoint=saved", "failures=2", "save_similarity=true")
    page = (tmp_path / "out/failures.html").read_text()
    scores, ranks = np.load("out/similarity_0.npy"), read_ranks(tmp_path / "out/ranks_0.npz")
    rows = list(csv.DictReader((tmp_path / "out/queries_0.csv").read_text().splitlines()))
    assert [int(row["rank"]) - 1 for row in rows] == [*ranks["i2t"], *ranks["t2i"]]
    assert rows[0]["first"] == f"{scores[0].argmax() // 2}#{scores[0].argmax() % 2 + 1}"
    wrong = sum(int((ranks[way] > 0).sum()) for way in ("i2t", "t2i"))
    assert (
        page.count("has rank")
        == min(2, (ranks["i2t"] > 0).sum()) + min(2, (ranks["t2i"] > 0).sum())
        and wrong
    )
    with pytest.raises(ValueError, match="holds a result of itm.evaluate already"):
        evaluate_here(monkeypatch, "checkpoint=saved")
    evaluate_here(monkeypatch, "checkpoint=saved", "overwrite=true", "save_ranks=false")
    left = {p.name for p in (tmp_path / "out").iterdir()}
    assert left == {".hydra", "evaluate.log", "made.json", "report.json"}


def test_the_log_has_what_was_printed(tmp_path, monkeypatch, capsys):
    make_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    evaluate_here(monkeypatch, "checkpoint=saved", "precision=bf16-mixed")
    log = (tmp_path / "out/evaluate.log").read_text()
    printed = capsys.readouterr().out.splitlines()
    assert any("scoring in precision bf16-mixed" in line for line in printed)
    assert any("rsum" in line for line in printed) and any("written to" in line for line in printed)
    assert [line for line in printed if line.strip() and line not in log] == []


def test_results_are_written_before_they_are_printed(tmp_path, monkeypatch):
    make_data(tmp_path)
    monkeypatch.chdir(tmp_path)

    def gone(*_):
        raise BrokenPipeError

    monkeypatch.setattr("itm.runs.tables.metric_table", gone)
    with pytest.raises(BrokenPipeError):
        evaluate_here(monkeypatch, "checkpoint=saved")
    assert "rsum" in (tmp_path / "out/report.json").read_text()


def test_a_terminal_without_the_characters_ends_nothing(tmp_path):
    make_data(tmp_path)
    (tmp_path / "狗").mkdir()
    for path in tmp_path.glob("test_*"):
        path.rename(tmp_path / "狗" / path.name)
    text = cli.run(
        "evaluate", "checkpoint=saved", "data=flickr8k", "data.root=狗", "plot=false",
        cwd=tmp_path, PYTHONIOENCODING="ascii",
    )  # fmt: skip
    assert "? test, 3 images, 6 captions, protocol full" in " ".join(text.split())


def test_a_saved_matrix_is_measured_without_a_matcher(tmp_path, monkeypatch, capsys):
    make_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    np.save("own.npy", np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32))
    np.save("other.npy", np.random.default_rng(0).normal(size=(4, 20)).astype(np.float32))
    evaluate_here(monkeypatch, "similarity=own.npy")
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["split"] == "test" and report["similarity"] == [str(tmp_path / "own.npy")]
    evaluate_here(monkeypatch, "similarity=other.npy", "overwrite=true")
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert (report["split"], report["root"], report["images"]) == (
        "unknown split", "unknown data", 4
    )  # fmt: skip
    assert "unknown data unknown split, 4 images, 20 captions" in capsys.readouterr().out
    with pytest.raises(ValueError, match="relevance=cider needs the captions of the matrix"):
        evaluate_here(monkeypatch, "similarity=other.npy", "relevance=cider", "overwrite=true")
    # As many images as the split has, but other captions: the ids of the split are not theirs.
    np.save("other.npy", np.zeros((3, 15), np.float32))
    (tmp_path / "test_ids.txt").write_text("391895\n60623\n483108\n")
    annotations = [{"image_id": 391895, "category_id": 1}]
    (tmp_path / "i.json").write_text(json.dumps({"annotations": annotations}))
    with pytest.raises(ValueError, match="pmrp=i.json needs the ids of the images of the matrix"):
        evaluate_here(monkeypatch, "similarity=other.npy", "pmrp=i.json", "overwrite=true")


@pytest.mark.parametrize(
    "options, said",
    [
        (["checkpoint=[]"], r"checkpoint=\[\] names no file"),
        (["checkpoint=saved", "rerank_beta=5"], "rerank_beta=5 has no effect without rerank="),
        (["checkpoint=saved", "images=."], "images=. has no effect without failures="),
        (["checkpoint=saved", "pairs=true"], "pairs=true has no effect with fewer than three"),
        (["similarity=own.npy", "device=cpu"], "device=cpu has no effect with similarity="),
    ],
)
def test_options_in_vain_are_refused(options, said, tmp_path, monkeypatch):
    make_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    np.save("own.npy", np.zeros((3, 6), np.float32))
    with pytest.raises(ValueError, match=said):
        evaluate_here(monkeypatch, *options)


def test_another_part_of_the_data_is_scored_as_a_whole(tmp_path, monkeypatch, capsys):
    """The protocol of Flickr30K is that of its 1,000 test images."""
    make_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    for file in ("ims.npy", "caps.txt"):
        shutil.copy(f"test_{file}", f"dev_{file}")
    for i, option in enumerate(["data.split=dev", "data.limit=2"]):
        common = ["data=f30k", "data.root=.", "plot=false", f"hydra.run.dir=out{i}"]
        monkeypatch.setattr("sys.argv", ["itm.evaluate", *common, "checkpoint=saved", option])
        entry.call("evaluate", evaluate.command)
        report = json.loads((tmp_path / f"out{i}/report.json").read_text())
        assert report["protocol"] == "full"
        assert "scored by protocol full, because data.protocol=f30k_1k" in capsys.readouterr().out


def write_phrases(data, phrases):
    """A split of three images with boxes, and phrases of the first two."""
    np.save(data / "test_boxes.npy", np.tile(np.float32([0, 0, 1, 1]), (3, 4, 1)))
    lines = [{"image": i, "phrase": text, "boxes": [[0, 0, 1, 1]]} for i, text in phrases]
    (data / "phrases.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")


def test_words_that_a_matcher_does_not_know_are_told(tmp_path, monkeypatch, capsys):
    """The test of a training tells them; on other data they had been lost without a word."""
    make_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    evaluate_here(monkeypatch, "checkpoint=saved")
    assert "unknown" not in capsys.readouterr().out
    (tmp_path / "test_caps.txt").write_text("\n".join(["a dog", "a hund", "der hund"] * 2) + "\n")
    evaluate_here(monkeypatch, "checkpoint=saved", "overwrite=true")
    told = "50% of the words of the captions of split test are unknown to the vocabulary of"
    assert told in capsys.readouterr().out


def test_phrases_are_not_called_captions(tmp_path, monkeypatch, capsys):
    make_data(tmp_path)
    write_phrases(tmp_path, [(0, "a red hund"), (1, "two cats"), (2, "der hund")])
    monkeypatch.chdir(tmp_path)
    options = ["data=phrases", "data.phrases.path=phrases.jsonl", "failures=3"]
    evaluate_here(monkeypatch, "checkpoint=saved", *options)
    told = capsys.readouterr().out
    assert "3 images, 3 phrases, protocol full" in told
    assert "43% of the words of the phrases of split test are unknown" in told
    assert json.loads(Path("out/report.json").read_text())["sentences"] == "phrases"
    assert "its best caption" not in Path("out/failures.html").read_text()


def test_phrases_are_ranked_as_in_the_test_of_a_training(tmp_path, monkeypatch):
    """With data=phrases, captions had been ranked, and data.phrases.path had been ignored."""
    make_data(tmp_path)
    phrases = [(1, "two cats"), (0, "a red dog"), (1, "a cat"), (1, "one blue bird")]
    write_phrases(tmp_path, phrases)
    monkeypatch.chdir(tmp_path)
    options = ["data=phrases", "data.phrases.path=phrases.jsonl", "checkpoint=saved"]
    evaluate_here(monkeypatch, *options, "save_similarity=true", "relevance=cider", "failures=3")
    scores = np.load("out/similarity_0.npy")
    owner = np.array([0, 1, 1, 1])  # sorted by image; the third image has no phrase
    assert scores.shape == (3, 4)
    found = next(iter(json.loads(Path("out/report.json").read_text())["results"].values()))
    best = [owner[scores[image].argmax()] == image for image in (0, 1)]
    assert found["i2t_r1"] == pytest.approx(100 * np.mean(best))
    assert found["t2i_r1"] == pytest.approx(100 * np.mean(scores.argmax(0) == owner))
    with open("out/queries_0.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["direction"] == "t2i"]
    assert [row["caption"] for row in rows] == ["a red dog", "two cats", "a cat", "one blue bird"]


def test_a_bank_of_queries_holds_phrases_as_well(tmp_path, monkeypatch, capsys):
    make_data(tmp_path)
    write_phrases(tmp_path, [(0, "a red dog"), (1, "two cats"), (2, "a bird")])
    for name in ("ims.npy", "boxes.npy", "caps.txt"):
        shutil.copy(tmp_path / f"test_{name}", tmp_path / f"dev_{name}")
    monkeypatch.chdir(tmp_path)
    options = ["data=phrases", "data.phrases.path=phrases.jsonl", "rerank=inverted_softmax"]
    bank = ["rerank_bank=val", "rerank_bank_images=2", "rerank_beta=20"]
    evaluate_here(monkeypatch, "checkpoint=saved", *options, *bank)
    assert "a bank of queries: 2 images and 2 phrases of split dev" in capsys.readouterr().out


def test_saved_scores_of_a_shortlist_are_refused_where_the_option_is(tmp_path, monkeypatch, capsys):
    """The pairs behind a shortlist have places, not scores: their mean or softmax means nothing."""
    make_data(tmp_path)
    vocab = Vocabulary.build(CAPTIONS, 1)
    matcher = SCAN(len(vocab), img_dim=8, word_dim=4, embed_dim=8)
    matcher.vocab = vocab
    save(matcher, tmp_path / "scan")
    monkeypatch.chdir(tmp_path)
    common = ["checkpoint=scan", "save_similarity=true"]
    evaluate_here(monkeypatch, *common, "shortlist=1", "hydra.run.dir=short")
    evaluate_here(monkeypatch, *common, "precision=bf16-mixed", "hydra.run.dir=half")
    short, half = "short/similarity_0.npy", "half/similarity_0.npy"
    for options in ([f"similarity=[{half},{short}]"], [f"similarity={short}", "rerank=sinkhorn"]):
        with pytest.raises(ValueError, match=f"{short} was scored with shortlist=1, so most"):
            evaluate_here(monkeypatch, *options)
    capsys.readouterr()
    evaluate_here(monkeypatch, f"similarity={short}")
    assert f"{short} was scored with shortlist=1\n" in capsys.readouterr().out
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["shortlist"] == 1 and "precision" not in report
    evaluate_here(monkeypatch, f"similarity={half}", "overwrite=true")
    assert json.loads((tmp_path / "out/report.json").read_text())["precision"] == "bf16-mixed"
