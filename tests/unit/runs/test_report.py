import json
import re

import cli
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from itm.app.config import compose
from itm.metrics.protocols import Protocol
from itm.metrics.ranking import RECALLS
from itm.metrics.retrieval import evaluate, evaluate_queries, ranks
from itm.metrics.significance import compare, hits, holm, interval, query_counts, resample
from itm.report import command, places
from itm.runs.groups import differing, group_seeds, spread
from itm.runs.history import find_runs, short_tests
from itm.runs.record import describe_size, environment, write_ranks
from itm.runs.report import differences, every_run
from itm.runs.report_files import markdown
from itm.visual.report_page import report_page

IMAGES = 40
IMAGE = np.repeat(np.arange(IMAGES), 5)
FACTS = {"split": "test", "root": "/d", "protocol": "full", "images": IMAGES}


def make_ranks(quality, seed):
    scores = np.random.default_rng(seed).normal(size=(IMAGES, 5 * IMAGES))
    scores[IMAGE, np.arange(5 * IMAGES)] += quality
    return evaluate_queries(scores, IMAGE)


def make_run(folder, quality, seed, model="vsrn", **settings):
    """What itm.train leaves behind, without training."""
    folder.mkdir(parents=True)
    metrics, (i2t, t2i) = make_ranks(quality, seed)
    test = {f"test/{name}": value for name, value in metrics.items()}
    (folder / "run.json").write_text("{}")
    (folder / "results.json").write_text(json.dumps({"val/rsum": 1.0, **test, **FACTS}))
    write_ranks(folder / "ranks.npz", i2t, t2i, IMAGE)
    config = OmegaConf.create({"seed": seed, "data": {"seed": "${seed}"}})
    for key, value in {"loss.margin": 0.2, "model.embed_dim": 8, **settings}.items():
        OmegaConf.update(config, key, value)
    choices = {"model": model, "loss": "triplet", "data": "scenes"}
    (folder / ".hydra").mkdir()
    OmegaConf.save(config, folder / ".hydra" / "config.yaml")
    runtime = {"hydra": {"runtime": {"choices": choices}}}
    OmegaConf.save(OmegaConf.create(runtime), folder / ".hydra" / "hydra.yaml")
    (folder / "csv").mkdir()
    table = "step,train/loss,val/rsum\n1,9.5,\n2,,30.0\n3,8.5,\n4,,50.0\n"
    (folder / "csv" / "metrics.csv").write_text(table)
    return metrics


def make_report(tmp_path, *overrides):
    cfg = compose([f"out={tmp_path / 'page'}", "samples=200", *overrides], "report")
    return command(cfg)


def test_a_sweep_becomes_one_page(tmp_path):
    measured = {}
    for i, (margin, seed) in enumerate([(0.1, 0), (0.1, 1), (0.2, 0), (0.2, 1)]):
        run = tmp_path / "sweep" / str(i)
        measured[i] = make_run(run, 2.5 if margin == 0.1 else 1.0, seed, **{"loss.margin": margin})
    (tmp_path / "sweep" / "4").mkdir()
    (tmp_path / "sweep" / "4" / "run.json").write_text("{}")
    out = make_report(tmp_path, f"runs={tmp_path / 'sweep'}")
    text = (out / "report.md").read_text()
    rows = re.findall(r"^\| (loss\.margin=0\.[12]) \| 2 \| ([\d.]+) ± ([\d.]+) \| .*$", text, re.M)
    assert [name for name, *_ in rows] == ["loss.margin=0.1", "loss.margin=0.2"]
    for (_, mean, deviation), (a, b) in zip(rows, [(0, 1), (2, 3)], strict=True):
        pair = measured[a]["rsum"], measured[b]["rsum"]
        assert float(mean) == pytest.approx(sum(pair) / 2, abs=0.051)
        assert float(deviation) == pytest.approx(abs(pair[0] - pair[1]) / 2**0.5, abs=0.051)
    assert "| different |" in text and "1 runs without results" in text and "sweep/4" in text
    page = (out / "report.html").read_text()
    assert page.count("data:image/svg+xml") == 3  # recall, margin, training
    assert "<script" not in page and "http-equiv" in page
    assert {p.name for p in out.glob("*.svg")} == {"recall.svg", "against.svg", "training.svg"}


def test_a_setting_that_no_run_has_is_named(tmp_path):
    make_run(tmp_path / "run", 1.0, 0)
    with pytest.raises(ValueError, match=r"against=loss.margn is not an option.*loss\.margin"):
        make_report(tmp_path, f"runs={tmp_path / 'run'}", "against=loss.margn")


def test_an_evaluation_adds_its_metrics_to_the_run_it_evaluates(tmp_path):
    a, b = tmp_path / "runs" / "a", tmp_path / "runs" / "b"
    metrics = {str(a): make_run(a, 2.0, 0), str(b): make_run(b, 1.0, 0, **{"loss.margin": 0.3})}
    both = tmp_path / "runs" / "evaluation"
    both.mkdir()
    rows = {name: {**values, "i2t_ncs_10": 50.0} for name, values in metrics.items()}
    rows["ensemble of 2"] = {**metrics[str(a)], "i2t_ncs_10": 55.0}
    other = {**FACTS, "checkpoints": [str(a), str(b / "checkpoints" / "last.ckpt")]}
    (both / "report.json").write_text(json.dumps({**other, "results": rows}))
    runs, failed = find_runs([tmp_path / "runs"])
    assert not failed and len(runs) == 4
    by_name = {run.name: run for run in runs}
    assert by_name["runs/a"].metrics["i2t_ncs_10"] == 50.0
    assert "i2t_ncs_10" not in by_name["runs/b"].metrics  # another checkpoint than its best
    labels = list(group_seeds(runs))
    assert len(labels) == 4 and any("checkpoint=last.ckpt" in label for label in labels)
    assert "runs/evaluation: ensemble of 2" in labels


def test_what_follows_from_a_choice_is_not_listed(tmp_path):
    make_run(tmp_path / "a", 1, 0, model="vsrn", **{"optimizer.lr": 1e-3})
    make_run(tmp_path / "b", 1, 0, model="scan", **{"optimizer.lr": 1e-4})
    make_run(tmp_path / "c", 1, 1, model="scan", **{"optimizer.lr": 1e-4})
    runs, _ = find_runs([tmp_path])
    assert "optimizer.lr" not in differing(runs)
    assert {name: len(g) for name, g in group_seeds(runs).items()} == {"vsrn": 1, "scan": 2}


def test_options_that_change_no_number_do_not_split_the_seeds(tmp_path):
    """A record of an earlier version lacks an option that came later."""
    make_run(tmp_path / "0", 1.0, 0)
    make_run(tmp_path / "1", 2.0, 1, **{"data.cache_words": True, "data.workers": 4})
    ((_, group),) = group_seeds(find_runs([tmp_path])[0]).items()
    assert len(group) == 2


def test_runs_that_differ_only_in_the_seed_are_one_row(tmp_path):
    """As after the documented `itm.train sweep=seeds`: nothing else differs."""
    found = [make_run(tmp_path / str(seed), 1.0 + seed, seed)["rsum"] for seed in range(3)]
    runs, _ = find_runs([tmp_path])
    ((name, group),) = group_seeds(runs).items()
    assert name == "vsrn triplet scenes" and len(group) == 3
    out = make_report(tmp_path, f"runs={tmp_path}")
    mean, deviation = np.mean(found), np.std(found, ddof=1)
    assert (
        f"| vsrn triplet scenes | 3 | {mean:.1f} ± {deviation:.1f} |"
        in (out / "report.md").read_text()
    )


@pytest.mark.parametrize(
    "key, value",
    [
        ("trainer.precision", "bf16-mixed"),
        ("trainer.accumulate_grad_batches", 2),
        ("callbacks.ema.decay", 0.99),
        ("optimizer._target_", "torch.optim.SGD"),
        ("data.fraction", 0.1),
        ("data.resident", "bfloat16"),
        ("max_epochs", 99),
        ("compile", True),
        ("chunk_size", 32),
    ],
)
def test_runs_with_another_configuration_are_no_seeds_of_each_other(tmp_path, key, value):
    make_run(tmp_path / "a", 1, 0)
    make_run(tmp_path / "b", 1, 1, **{key: value})
    make_run(tmp_path / "c", 1, 2, **{key: value})
    runs, _ = find_runs([tmp_path])
    groups = group_seeds(runs)
    assert sorted(len(group) for group in groups.values()) == [1, 2]
    label = next(name for name, group in groups.items() if len(group) == 2)
    word = "SGD" if key.endswith("_target_") else str(value)
    assert label == f"{key.removesuffix('._target_')}={word}"  # names say only what differs


def test_logging_and_resuming_do_not_make_another_configuration(tmp_path):
    make_run(tmp_path / "a", 1, 0)
    aside = {"logger.csv.name": "x", "resume": "b", "trainer.enable_progress_bar": False}
    make_run(tmp_path / "b", 1, 1, **aside)
    runs, _ = find_runs([tmp_path])
    assert [len(group) for group in group_seeds(runs).values()] == [2]


def test_a_repeated_seed_is_said(tmp_path):
    """Its runs have other results, for example because the GPU is another one."""
    for i, seed in enumerate((0, 0, 1)):
        make_run(tmp_path / str(i), 1 + (i == 1) / 10, seed)
    out = make_report(tmp_path, f"runs={tmp_path}")
    assert "| 3 (2 seeds) |" in (out / "report.md").read_text()


def test_a_run_that_was_made_twice_counts_once(tmp_path, capsys):
    for i, seed in enumerate((0, 1)):
        make_run(tmp_path / "first" / str(i), 1, seed)
    make_run(tmp_path / "second" / "0", 1, 1)
    out = make_report(tmp_path, f"runs=[{tmp_path}/first,{tmp_path}/second]", "format=latex")
    line = "ame options, seed and results, so counted once: second/0 repeats first/1"
    assert f"s{line}" in capsys.readouterr().err
    text = (out / "report.md").read_text()
    assert "| 2 |" in text and "| 3 " not in text and f"S{line}" in text
    assert text.count("second/0") > 1  # and it is listed


def edit(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_rows_are_sorted_by_validation_and_show_it_beside_the_test(tmp_path):
    metrics = {x: make_run(tmp_path / x, q, 0, model=x) for x, q in (("vsrn", 3), ("scan", 1))}
    assert metrics["vsrn"]["rsum"] > metrics["scan"]["rsum"]
    edit(tmp_path / "scan/results.json", **{"val/rsum": 500.0, "epochs": 7, "parameters_m": 1.5,
         "seconds": 60.0, "command": "python -m itm.train x=$(y)", "device": "cpu"})  # fmt: skip
    out = make_report(tmp_path, f"runs={tmp_path}")
    text = (out / "report.md").read_text()
    rows = [
        line.split(" | ")[0] for line in text.splitlines() if re.match(r"\| (vsrn|scan) ", line)
    ]
    assert rows[:2] == ["| scan", "| vsrn"]
    assert f"| scan | 1 | {metrics['scan']['rsum']:.1f} | 500.0 |" in text
    assert "| scan | 1.50 | 7 | 60 | cpu | python -m itm.train x=\\$(y) |" in text
    csv_rows = (out / "results.csv").read_text().splitlines()
    assert csv_rows[1].startswith("scan,1,500.0,") and csv_rows[2].startswith("vsrn,1,1.0,")
    data = json.loads((out / "results.json").read_text())
    assert [x["name"] for x in data] == ["scan", "vsrn"] and data[0]["val_rsum"] == {"mean": 500.0}
    assert data[0]["test"]["rsum"]["mean"] == round(metrics["scan"]["rsum"], 2)
    latex = (out / "results.tex").read_text()
    assert r"\textbf{500.0}" in latex and rf"\textbf{{{metrics['vsrn']['rsum']:.1f}}} \\" in latex
    assert rf"\textbf{{{metrics['scan']['rsum']:.1f}}}" not in latex


@pytest.mark.parametrize(
    "kind, start",
    [("latex", "% test of"), ("json", "["), ("markdown", "test of d"), ("text", "test of d"),
     ("csv", "run,runs,val rsum,i2t_r1,i2t_r5,i2t_r10,t2i_r1,t2i_r5,t2i_r10,rsum,")],
)  # fmt: skip
def test_results_are_printed_in_a_format(tmp_path, capsys, kind, start):
    make_run(tmp_path / "a", 1, 0)
    make_report(tmp_path, f"runs={tmp_path}", f"format={kind}")
    assert capsys.readouterr().out.startswith(start)


def test_a_report_is_replaced_only_when_asked_to(tmp_path):
    make_run(tmp_path / "a", 1, 0)
    out = make_report(tmp_path, f"runs={tmp_path / 'a'}")
    with pytest.raises(ValueError, match="holds a result of itm.report already"):
        make_report(tmp_path, f"runs={tmp_path / 'a'}")
    make_report(tmp_path, f"runs={tmp_path / 'a'}", "overwrite=true")
    (out / "report.md").write_text("mine")
    (out / "made.json").unlink()
    with pytest.raises(ValueError, match="not listed in made.json"):
        make_report(tmp_path, f"runs={tmp_path / 'a'}", "overwrite=true")
    assert (out / "report.md").read_text() == "mine"


DAMAGE = {
    "results.json": [b"", b"{", b"[]", b"\xff", b'{"test/rsum": "x"}', b'{"test/rsum": NaN}',
                     b'{"val/rsum": null}', b"{}", b"[" * 100_000],
    "run.json": [b"{", b"null"],
    "ranks.npz": [b"", b"PK", b"\x93NUMPY"],
    ".hydra/config.yaml": [b"{", b"a: !!python/object:os.system {}", b"\x00",
                           b"a: &a [1]\nb: [*a, *a]"],
    ".hydra/hydra.yaml": [b"["],
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_one_damaged_run_is_one_line(tmp_path, name):
    make_run(tmp_path / "good", 1, 0)
    for i, content in enumerate(DAMAGE[name]):
        make_run(tmp_path / f"bad{i}", 1, 0)
        (tmp_path / f"bad{i}" / name).write_bytes(content)
    runs, unfinished = find_runs([tmp_path])
    assert [run.name for run in runs] == [f"{tmp_path.name}/good"]
    assert len(unfinished) == len(DAMAGE[name])
    for folder, reason in unfinished:
        assert reason.startswith("damaged: ") and "\n" not in reason and folder.name[:3] == "bad"
    text = (make_report(tmp_path, f"runs={tmp_path}") / "report.md").read_text()
    assert text.count("| damaged: ") == len(unfinished)


def test_a_torn_line_of_the_curves_is_left_out(tmp_path):
    make_run(tmp_path / "a", 1, 0)
    with (tmp_path / "a/csv/metrics.csv").open("a") as file:
        file.write("5,1.2e,\n6")
    (run,), unfinished = find_runs([tmp_path])
    assert not unfinished and run.curves["train/loss"][1].tolist() == [9.5, 8.5]


def test_results_of_an_earlier_attempt_are_not_shown(tmp_path):
    make_run(tmp_path / "good", 1, 0)
    make_run(tmp_path / "resumed", 1, 0)
    make_run(tmp_path / "failed", 1, 0)
    edit(tmp_path / "resumed/results.json", command="itm.train", started="1")
    edit(tmp_path / "resumed/run.json", command="itm.train", started="2")
    edit(tmp_path / "failed/run.json", command="itm.train x")
    (tmp_path / "failed/failure.txt").write_text("out of memory")
    runs, unfinished = find_runs([tmp_path])
    assert [run.name for run in runs] == [f"{tmp_path.name}/good"]
    reasons = {folder.name: reason for folder, reason in unfinished}
    assert reasons["failed"] == "failed: out of memory"
    assert reasons["resumed"].startswith("resumed and not finished since")


def test_an_evaluation_of_an_earlier_checkpoint_is_not_joined(tmp_path):
    """The run was trained again after the evaluation, into the same folder."""
    for name, hour in (("old", 9), ("new", 11)):
        metrics = make_run(tmp_path / name, 1, 0)
        edit(
            tmp_path / name / "results.json",
            started=f"2026-01-01T{hour:02}:00:00+00:00",
            seconds=60,
        )
        (tmp_path / f"ev_{name}").mkdir()
        facts = {
            **FACTS,
            "checkpoints": [str(tmp_path / name)],
            "results": {name: {**metrics, "x": 1}},
        }
        facts["started"] = "2026-01-01T10:00:00+00:00"
        (tmp_path / f"ev_{name}/report.json").write_text(json.dumps(facts))
    runs, _ = find_runs([tmp_path])
    assert {run.name: "x" in run.metrics for run in runs} == {
        f"{tmp_path.name}/old": True, f"{tmp_path.name}/new": False,
        f"{tmp_path.name}/ev_new: new": True,
    }  # fmt: skip


def test_automatic_precision_depends_on_the_hardware(tmp_path):
    devices = ["cpu (1 threads)", "cpu (4 threads)", "NVIDIA H100"]
    for seed, device in enumerate(devices):
        make_run(tmp_path / str(seed), 1, seed, **{"trainer.precision": "auto"})
        edit(tmp_path / f"{seed}/results.json", device=device)
    runs, _ = find_runs([tmp_path])
    assert {name: len(group) for name, group in group_seeds(runs).items()} == {
        "trainer.precision=auto on cpu": 2, "trainer.precision=auto on NVIDIA H100": 1,
    }  # fmt: skip


def test_equal_numbers_are_equal(tmp_path):
    for i, margin in enumerate((1, 1.0, True)):
        make_run(tmp_path / str(i), 1, i, **{"loss.margin": margin})
    runs, _ = find_runs([tmp_path])
    assert sorted(len(group) for group in group_seeds(runs).values()) == [1, 2]


def test_references_are_never_resolved(tmp_path, monkeypatch):
    monkeypatch.setenv("ITM_SECRET", "hush")
    make_run(tmp_path / "a", 1, 0, **{"data.root": "${oc.env:ITM_SECRET}"})
    make_run(tmp_path / "b", 1, 0, **{"data.root": "/d"})
    out = make_report(tmp_path, f"runs={tmp_path}")
    for path in out.iterdir():
        assert b"hush" not in path.read_bytes()
    assert r"data.root=\$\{oc.env:ITM_SECRET\}" in (out / "report.md").read_text()


def test_mean_and_deviation_in_words():
    assert spread([1.0, 3.0]) == "2.0 ± 1.4" and spread([1.0, None]) == "1.0" and spread([]) == ""


def test_unusual_names_stay_text(tmp_path):
    make_run(tmp_path / "a|<b>&", 1, 0)
    runs, _ = find_runs([tmp_path / "a|<b>&"])
    section = every_run(runs)
    assert "&lt;b&gt;&amp;" in report_page("x", [section])
    assert r"a\|\<b\>\&" in markdown("x", [section])


def test_places_without_runs_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="itm.train"):
        places(None)
    (tmp_path / "outputs").mkdir()
    assert places(None) == ["outputs"]
    with pytest.raises(FileNotFoundError, match=r"no finished run.*results\.json"):
        find_runs(["outputs"])
    with pytest.raises(FileNotFoundError, match="no such folder"):
        find_runs([tmp_path / "nowhere"])


def test_training_and_evaluation_keep_the_ranks(tmp_path):
    data = ["data.root.images=[40,20,20]"]
    small = [
        "trainer=fast",
        "trainer.log_every_n_steps=5",
        "model=scan",
        "model.embed_dim=8",
        "model.word_dim=8",
        *data,
    ]
    cli.run("train", *small, "hydra.run.dir=run", cwd=tmp_path)
    cli.run(
        "evaluate", "checkpoint=run", *data, "relevance=cider", "hydra.run.dir=ev", cwd=tmp_path
    )
    cli.run("report", "runs=[run,ev]", "hydra.run.dir=page", cwd=tmp_path)
    runs, _ = find_runs([tmp_path / "run", tmp_path / "ev"])
    (run,) = runs  # the evaluation measured the run's best checkpoint on the run's own test
    assert run.ranks is not None and "i2t_ncs_10" in run.metrics
    totals = 100 * hits(run.ranks).sum(0) / query_counts(run.ranks).sum(0)
    np.testing.assert_allclose(totals, [run.metrics[name] for name in RECALLS], atol=1e-4)
    assert (tmp_path / "run" / "ranks.npz").stat().st_size < 3000
    assert (tmp_path / "page" / "report.html").is_file()


# Ranks and the bootstrap ----------------------------------------------------------------------


def test_ranks_of_folds_are_within_folds():
    scores = np.random.default_rng(0).normal(size=(20, 60)).astype(np.float32)
    own = np.random.default_rng(1).permutation(np.repeat(np.arange(20), 3))
    protocol = Protocol(folds=4)
    values, (i2t, t2i) = evaluate_queries(scores, own, protocol)
    for start in range(0, 20, 5):
        rows = np.arange(start, start + 5)
        columns = np.flatnonzero(np.isin(own, rows))
        expected = ranks(scores[np.ix_(rows, columns)], own[columns] - start)
        np.testing.assert_array_equal(i2t[rows], expected[0])
        np.testing.assert_array_equal(t2i[columns], expected[1])
    assert values == evaluate(scores, own, protocol)


def test_hits_against_a_loop():
    rng = np.random.default_rng(3)
    image = np.sort(rng.integers(0, 7, 20))
    found = {"i2t": rng.integers(0, 15, 7), "t2i": rng.integers(0, 15, 20), "image": image}
    expected = np.zeros((7, 6))
    for column, k in enumerate((1, 5, 10)):
        for i in range(7):
            expected[i, column] = found["i2t"][i] < k
            for c in range(20):
                expected[i, 3 + column] += image[c] == i and found["t2i"][c] < k
    np.testing.assert_array_equal(hits(found), expected)


def as_ranks(quality, seed):
    _, (i2t, t2i) = make_ranks(quality, seed)
    return {"i2t": i2t, "t2i": t2i, "image": IMAGE}


def test_a_matcher_does_not_differ_from_itself():
    same = as_ranks(1, 0)
    difference = compare([same], [same], 200)
    assert difference == (0, 0, 0, 1)


def test_a_difference_has_a_sign_and_an_interval_around_it():
    good, bad = as_ranks(3, 0), as_ranks(1, 1)
    there, back = compare([good], [bad], 500), compare([bad], [good], 500)
    rsum = [(100 * hits(r).sum(0) / query_counts(r).sum(0)).sum() for r in (good, bad)]
    assert there.value == pytest.approx(rsum[0] - rsum[1]) and there.value == -back.value
    assert 0 < there.low < there.value < there.high and there.p == pytest.approx(2 / 501)
    assert back.high < 0
    low, high = interval([good], 500)
    assert low < rsum[0] < high


def test_the_bootstrap_has_the_spread_of_a_binomial():
    # One query an image, 30 % answered, in the first column only: rsum is a mean of coin tosses.
    images = 400
    answered = np.zeros((images, 6))
    answered[: int(0.3 * images), 0] = 1
    drawn = resample(answered, np.ones((images, 6)), 4000, seed=0)
    assert drawn.mean() == pytest.approx(30, abs=0.2)
    assert drawn.std() == pytest.approx(100 * (0.3 * 0.7 / images) ** 0.5, rel=0.05)


def test_captions_of_one_image_are_drawn_together():
    # Five captions that always agree tell no more than one: the spread is that of images.
    images = 400
    answered, asked = np.zeros((images, 6)), np.ones((images, 6))
    answered[: images // 2, 3], asked[:, 3] = 5, 5
    drawn = resample(answered, asked, 4000, seed=0)
    assert drawn.std() == pytest.approx(100 * 0.5 / images**0.5, rel=0.05)


def test_other_queries_are_refused():
    first, second = as_ranks(1, 0), as_ranks(1, 0)
    second["image"] = second["image"][::-1]
    with pytest.raises(ValueError, match="different queries"):
        compare([first], [second])


def test_holm_as_in_its_paper():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []


@pytest.mark.parametrize(
    ("width", "text"),
    [
        (950, "950 parameters"),
        (4_210, "4.2 k parameters"),
        (999_949, "999.9 k parameters"),
        (999_951, "1.00 M parameters"),
        (11_350_000, "11.35 M parameters"),
    ],
)
def test_sizes_have_a_unit_that_fits(width, text):
    assert describe_size(torch.nn.Linear(width, 1, bias=False, device="meta")) == text


def test_titles_name_data_folders_in_short_unless_two_would_be_equal():
    scenes = "test of /root/.cache/itm/scenes-0c52cdc94d8c, 100 images, full"
    real = "test of /data/flickr8k, 1000 images, full"
    assert short_tests([scenes, real, "unknown split"]) == {
        scenes: "test of scenes, 100 images, full",
        real: "test of flickr8k, 1000 images, full",
        "unknown split": "unknown split",
    }
    phrases = "test of /data/flickr8k, 1000 images with phrases, full, content 37d0433281d67b58"
    short = "test of flickr8k, 1000 images with phrases, full, content 37d0433281d67b58"
    assert short_tests([phrases]) == {phrases: short}
    other = "test of /old/flickr8k, 1000 images, full"
    assert short_tests([real, other]) == {real: real, other: other}


def test_captions_are_another_test_than_phrases_of_the_same_images(tmp_path):
    """A run of data=phrases that also ranked captions had been "not as its run: other data"."""
    phrases, weights = {"sentences": "phrases", "content": "c1"}, {"weights": ["w1"]}
    metrics = make_run(tmp_path / "run", 2.0, 0)
    results = json.loads((tmp_path / "run/results.json").read_text())
    record = {**results, **phrases, "weights": "w1"}
    (tmp_path / "run/results.json").write_text(json.dumps(record))
    own = {**metrics, "i2t_ncs_10": 5.5}
    write_report(tmp_path / "again", tmp_path / "run", own, **phrases, **weights)
    write_report(tmp_path / "captions", tmp_path / "run", metrics, content="c2", **weights)
    runs = {run.test: run for run in find_runs([tmp_path])[0]}
    titles = ["test of /d, 40 images with phrases, full", "test of /d, 40 images, full"]
    assert sorted(runs) == sorted(titles)
    assert not any("not as its run" in run.name for run in runs.values())
    assert runs[titles[0]].metrics["i2t_ncs_10"] == 5.5
    assert runs[titles[1]].source == runs[titles[0]].source


def test_many_settings_can_still_differ(tmp_path):
    """11 settings make 55 pairs; 2,000 samples could not give any of them a p below 0.05."""
    for i in range(11):
        make_run(tmp_path / "runs" / str(i), i / 2, 0, **{"loss.margin": (i + 1) / 100})
    groups = group_seeds(find_runs([tmp_path / "runs"])[0])
    section = differences(groups, 2000)
    assert len(section.rows) == 55 and "(5500 samples)" in section.text
    assert sum(row[-1] == "different" for row in section.rows) > 40


def test_results_name_the_device_that_computed_them(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    assert environment(torch.device("cuda:1"))["device"] == "GPU 1"
    for device in (torch.device("cpu"), None):
        assert environment(device)["device"].startswith("cpu (")


def test_scores_of_a_shortlist_or_in_low_precision_are_rows_of_their_own(tmp_path):
    run = tmp_path / "runs" / "a"
    metrics = make_run(run, 2.0, 0)
    for name, facts in {
        "short": {"shortlist": 5}, "low": {"precision": "bf16-mixed"}, "plain": {}
    }.items():  # fmt: skip
        (tmp_path / "runs" / name).mkdir()
        rsum = 100.0 if facts else metrics["rsum"]
        rows = {str(run): {**metrics, "rsum": rsum, "i2t_ncs_10": 50.0}}
        report = {**FACTS, "checkpoints": [str(run)], "results": rows, **facts}
        (tmp_path / "runs" / name / "report.json").write_text(json.dumps(report))
    runs, _ = find_runs([tmp_path / "runs"])
    found = {
        tuple((k, v) for k, v in run.settings.items() if k.startswith("evaluate.")): run
        for run in runs
    }
    assert len(found) == 3
    assert found[()].rsum == metrics["rsum"] and found[()].metrics["i2t_ncs_10"] == 50.0
    assert found[(("evaluate.shortlist", 5),)].rsum == 100.0


def write_report(folder, run, metrics, **facts):
    """Write the evaluation of a run, with i2t_ncs_10 from a relevance."""
    folder.mkdir(parents=True)
    report = {**FACTS, "checkpoints": [str(run)], "results": {str(run): metrics}, **facts}
    (folder / "report.json").write_text(json.dumps(report))


def test_an_evaluation_of_other_weights_or_data_is_a_row_of_its_own(tmp_path):
    """The data, or the run in this folder, have changed between training and evaluation."""
    metrics = make_run(tmp_path / "runs/a", 2.0, 0)
    other = {**metrics, "rsum": metrics["rsum"] - 20, "i2t_ncs_10": 5.5}
    write_report(tmp_path / "runs/ev", tmp_path / "runs/a", other)
    own, evaluation = find_runs([tmp_path / "runs"])[0]
    assert own.rsum == metrics["rsum"] and "i2t_ncs_10" not in own.metrics
    assert evaluation.rsum == other["rsum"] and not evaluation.settings
    assert "other data or weights" in evaluation.name


@pytest.mark.parametrize("other", ["weights", "data"])
def test_recorded_weights_and_data_are_compared_exactly(other, tmp_path):
    """An equal rsum does not make an evaluation that of its run; another time does not matter."""
    metrics = {**make_run(tmp_path / "runs/a", 2.0, 0), "i2t_ncs_10": 5.5}
    record = {"weights": "w1", "content": "c1", "started": "2026-01-01T00:00:00", "seconds": 60}
    results = json.loads((tmp_path / "runs/a/results.json").read_text())
    (tmp_path / "runs/a/results.json").write_text(json.dumps({**results, **record}))
    facts = {"weights": ["w1"], "content": "c1", "started": "2026-01-01T00:00:59"}
    write_report(tmp_path / "runs/same", tmp_path / "runs/a", metrics, **facts)
    (joined,) = find_runs([tmp_path / "runs"])[0]
    assert joined.metrics["i2t_ncs_10"] == 5.5 and joined.test == "test of /d, 40 images, full"
    facts |= {"weights": ["w2"]} if other == "weights" else {"content": "c2"}
    write_report(tmp_path / "runs/other", tmp_path / "runs/a", metrics, **facts)
    own, evaluation = find_runs([tmp_path / "runs"])[0]
    assert own.metrics["i2t_ncs_10"] == 5.5
    assert evaluation.name.endswith(f"(not as its run: other {other})") and not evaluation.settings
    assert (own.test == evaluation.test) == (other == "weights")


def test_an_evaluation_after_a_resumed_training_is_not_older(tmp_path):
    """Its seconds are those of all attempts; an earlier version recorded no end."""
    metrics = make_run(tmp_path / "runs/a", 2.0, 0)
    results = json.loads((tmp_path / "runs/a/results.json").read_text())
    record = {"started": "2026-01-01T10:00:00+00:00", "seconds": 36000}
    ended = {"ended": "2026-01-01T10:05:00+00:00"}
    write_report(tmp_path / "ev", tmp_path / "runs/a", metrics, started="2026-01-01T10:06:00+00:00")
    for more, joined in (({}, False), (ended, True)):
        (tmp_path / "runs/a/results.json").write_text(json.dumps({**results, **record, **more}))
        (evaluation,) = find_runs([tmp_path / "ev"])[0]
        assert bool(evaluation.settings) == joined
    (tmp_path / "ev/report.json").unlink()
    write_report(
        tmp_path / "ev2", tmp_path / "runs/a", metrics, started="2026-01-01T10:04:00+00:00"
    )
    assert not find_runs([tmp_path / "ev2"])[0][0].settings


def test_a_last_checkpoint_may_reach_another_result_than_the_best_one(tmp_path):
    metrics = make_run(tmp_path / "runs/a", 2.0, 0)
    last = tmp_path / "runs/a/checkpoints/last.ckpt"
    write_report(tmp_path / "runs/ev", last, {**metrics, "rsum": metrics["rsum"] - 20})
    _, evaluation = find_runs([tmp_path / "runs"])[0]
    assert evaluation.settings["checkpoint"] == "last.ckpt" and "not as" not in evaluation.name


def test_an_ensemble_of_members_that_were_trained_again_is_not_described_by_them(tmp_path):
    paths = [tmp_path / f"runs/{name}" for name in "ab"]
    for seed, path in enumerate(paths):
        make_run(path, 2.0, seed)
        results = json.loads((path / "results.json").read_text())
        (path / "results.json").write_text(json.dumps({**results, "weights": path.name}))
    for name, weights in (("same", ["a", "b"]), ("other", ["a", "c"])):
        report = {**FACTS, "checkpoints": list(map(str, paths)), "weights": weights}
        rows = {str(path): {"rsum": 1.0} for path in paths}
        report["results"] = {**rows, "ensemble of 2": {"rsum": 3.0}}
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(report))
        row = next(run for run in find_runs([tmp_path / name])[0] if run.rsum == 3.0)
        assert bool(row.members) == (name == "same")


def test_graded_metrics_of_two_relevances_are_never_mixed(tmp_path):
    sources = {"cider": {"graded": "cider"}, "file": {"graded": "rel.npy 1234"}}
    for seed in (0, 1):
        run = tmp_path / f"runs/{seed}"
        metrics = make_run(run, 2.0, seed)
        for i, name in enumerate(sources if seed else ["file"]):
            rows = {**metrics, "i2t_ncs_10": 10.0 * i + seed}
            write_report(tmp_path / f"ev/{name}_{seed}", run, rows, relevance=sources[name])
    runs, _ = find_runs([tmp_path / "runs", tmp_path / "ev"])
    found = {
        name: [run.metrics["i2t_ncs_10"] for run in g] for name, g in group_seeds(runs).items()
    }
    assert sorted(found.values(), key=len) == [[1.0], [0.0, 11.0]]
    assert sum("rel.npy" in name for name in found) == 1 and len(found) == 2


def test_ensembles_are_validated_on_the_whole_split(tmp_path):
    """A part of it, or another protocol, does not compare with what the other ensembles have."""
    for seed, name in enumerate("abc"):
        make_run(tmp_path / f"runs/{name}", 2.0, seed, **{"data.val": "dev"})
    dev = {"split": "dev"}
    for place, members, rsum, facts in (
        ("0", "ab", 400.0, dev | {"images": 40}),
        ("1", "ab", 560.0, dev | {"images": 20}),
        ("2", "bc", 570.0, dev | {"images": 20}),
        ("3", "ac", 410.0, dev | {"images": 40}),
        ("4", "ac", 580.0, dev | {"images": 40, "protocol": "coco_1k"}),
        *((f"test {x}", x, 300.0, {}) for x in ("ab", "bc", "ac")),
    ):
        paths = [str(tmp_path / "runs" / name) for name in members]
        rows = {path: {"rsum": 1.0} for path in paths} | {"ensemble of 2": {"rsum": rsum}}
        folder = tmp_path / "runs" / place
        folder.mkdir()
        report = {**FACTS, **facts, "checkpoints": paths, "results": rows}
        (folder / "report.json").write_text(json.dumps(report))
    runs = [run for run in find_runs([tmp_path / "runs"])[0] if run.members]
    found = {run.folder.name: run.validation for run in runs if run.test.startswith("test")}
    assert found == {"test ab": 400.0, "test bc": None, "test ac": 410.0}


def test_members_do_not_depend_on_their_order_and_are_those_of_the_evaluation(tmp_path):
    for name, margin, seed in (("a", 0.1, 0), ("b", 0.2, 1)):
        make_run(tmp_path / f"runs/{name}", 2.0, seed, **{"loss.margin": margin})
    paths = [str(tmp_path / "runs" / name) for name in "ab"]
    rows = {"ensemble of 2": {"rsum": 300.0}}
    for name, split, checkpoints in (("dev", "dev", paths), ("test", "test", paths[::-1])):
        (tmp_path / "runs" / name).mkdir()
        report = {**FACTS, "split": split, "checkpoints": checkpoints, "results": {
            **{path: {"rsum": 1.0} for path in checkpoints}, **rows}}  # fmt: skip
        (tmp_path / "runs" / name / "report.json").write_text(json.dumps(report))
    runs = [run for run in find_runs([tmp_path / "runs"])[0] if run.members]
    assert len(runs) == 2 and runs[0].settings == runs[1].settings
    assert runs[0].members == runs[1].members
