"""Sweeps: their jobs and tables; a test is left out if the plugin of Hydra that it needs is."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
from cli import run
from omegaconf import OmegaConf

from itm.app.config import CONF, compose
from itm.app.sweep_summary import Summary
from itm.runs.sweep import (
    collect_jobs,
    job_table,
    job_times,
    repeated_jobs,
    seed_table,
    write_table,
)

SMALL = (
    "trainer=fast", "model=two_branch_embedding", "model.embed_dim=8", "model.hidden_dim=8",
    "model.word_dim=8", "data.root.images=[40,20,20]", "hydra.sweep.dir=sweep",
)  # fmt: skip


def plugin(name):
    """Tell whether a plugin is here; `hydra_plugins` exists only if there is one at all."""
    return find_spec("hydra_plugins") and find_spec(f"hydra_plugins.{name}")


def results(folder, jobs):
    found = [json.loads((folder / f"sweep/{job}/results.json").read_text()) for job in range(jobs)]
    assert (folder / "sweep/summary.csv").read_text().count("\n") == jobs + 1
    return found


@pytest.mark.skipif(not plugin("hydra_joblib_launcher"), reason="no plugin")
def test_joblib_runs_jobs_side_by_side(tmp_path):
    text = run("train", "-m", *SMALL, "sweep=joblib", "loss.margin=0.1,0.3", cwd=tmp_path)
    assert "2 jobs in sweep" in text
    a, b = results(tmp_path, 2)
    assert a["test/rsum"] > 0 and b["test/rsum"] > 0
    margins = {
        OmegaConf.load(tmp_path / f"sweep/{job}/.hydra/config.yaml").loss.margin for job in range(2)
    }
    assert margins == {0.1, 0.3}


@pytest.mark.parametrize(
    "sweep, swept",
    [
        ("low_data", ("data.fraction=0.5", "loss=triplet,sam/coco_alone", "seed=0")),
        ("margins", ("loss.margin=0.1,0.3", "seed=0")),
        ("temperatures", ("loss.temperature=3,6", "seed=0")),
        ("losses", ("loss=triplet,infonce", "seed=0")),
    ],
)
def test_sweeps_of_the_results_train(sweep, swept, tmp_path):
    """Fewer jobs than they have, and one epoch."""
    run("train", *SMALL, f"sweep={sweep}", "max_epochs=1", *swept, cwd=tmp_path)
    assert all(found["test/rsum"] > 0 for found in results(tmp_path, 2))
    cfg = OmegaConf.load(tmp_path / "sweep/0/.hydra/config.yaml")
    if sweep != "losses":
        assert cfg.callbacks.early_stopping.patience == 8 and "Plateau" in cfg.scheduler._target_


def test_little_data_compares_the_published_settings_of_sam():
    sweep = ["sweep=low_data", "model=cvse", "data=flickr8k", "data.root=DIR"]
    params = OmegaConf.load(f"{CONF}/sweep/low_data.yaml").hydra.sweeper.params
    first, *others = params.loss.split(",")
    losses = [compose([*sweep, f"loss={name}"], "train").loss for name in others]
    assert first == "triplet" and all(loss._target_ == "itm.losses.SAM" for loss in losses)
    published = [(3, 5), (6, 10), (10, 5)]  # released code, README for 10 % of COCO and Flickr30K
    assert [(x.temperature, x.weight, x.alone) for x in losses] == [
        (*pair, alone) for alone in (False, True) for pair in published
    ]
    cfg = compose(sweep, "train")
    assert cfg.callbacks.early_stopping.patience == 8 and cfg.scheduler.patience == 3
    assert params.seed == "0,1,2" and params["data.fraction"] == "0.1,0.25,0.5,1.0"


@pytest.mark.skipif(not plugin("hydra_optuna_sweeper"), reason="no plugin")
def test_optuna_maximises_and_draws_from_its_seed(tmp_path):
    values = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        command = [sys.executable, "-m", "itm.train", *SMALL, "sweep=optuna"]  # optuna 2.10 warns
        done = subprocess.run(
            [*command, "hydra.sweeper.n_trials=2"], cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found = results(folder, 2)
        best = OmegaConf.load(folder / "sweep/optimization_results.yaml")
        assert best.best_value == pytest.approx(max(x["val/rsum"] for x in found))
        values.append(
            [OmegaConf.load(folder / f"sweep/{job}/.hydra/overrides.yaml") for job in range(2)]
        )
    assert values[0] == values[1]


def test_slurm_has_the_launcher_and_its_options():
    """As written, since the plugin that it composes with need not be installed."""
    cfg = OmegaConf.load(f"{CONF}/sweep/slurm.yaml")
    assert cfg.defaults == [{"override /hydra/launcher": "submitit_slurm"}]
    assert cfg.hydra.launcher.timeout_min > 0


@pytest.mark.skipif(not plugin("hydra_submitit_launcher"), reason="no plugin")
def test_slurm_composes(tmp_path):
    text = run("train", "-m", "sweep=slurm", "--cfg", "hydra", cwd=tmp_path)
    assert "submitit" in text


def make_job(folder, name, results, *overrides):
    (folder / name / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(list(overrides)), folder / name / ".hydra/overrides.yaml")
    if results:
        (folder / name / "results.json").write_text(json.dumps(results))


def test_the_table_has_the_swept_values_and_puts_the_best_job_first(tmp_path):
    for job, rsum in ((0, 10.0), (2, 30.0), (10, None)):
        results = rsum and {"test/i2t_r1": 1.0, "test/rsum": rsum}
        make_job(tmp_path, str(job), results, "seed=0", f"loss.margin=0.{job}")
    columns, rows = job_table(collect_jobs(tmp_path))
    assert columns == ["job", "loss.margin", "test/i2t_r1", "test/rsum"]
    assert rows == [["2", "0.2", 1.0, 30.0], ["0", "0.0", 1.0, 10.0],
                    ["10", "0.10", "failed", "failed"]]  # fmt: skip


def test_a_sweep_of_failed_jobs_has_a_table_too(tmp_path):
    pytest.importorskip("matplotlib")
    from itm.visual.sweep_figure import plot_jobs

    for job in range(2):
        make_job(tmp_path, str(job), None, f"seed={job}")
    columns, rows = job_table(collect_jobs(tmp_path))
    assert columns == ["job", "seed", "val/rsum"]
    assert rows == [["0", "0", "failed"], ["1", "1", "failed"]]
    plot_jobs(columns, rows, tmp_path / "summary.png")


def test_jobs_that_differ_in_the_seed_are_averaged(tmp_path):
    for job, (margin, seed, val) in enumerate([(0.1, 0, 10.0), (0.1, 1, 14.0), (0.2, 0, 20.0)]):
        found = {"val/rsum": val, "test/i2t_r1": 1.0, "test/rsum": 100 - val}
        make_job(tmp_path, str(job), found, f"seed={seed}", f"loss.margin={margin}")
    make_job(tmp_path, "3", None, "seed=1", "loss.margin=0.2")
    jobs = collect_jobs(tmp_path)
    table, means = job_table(jobs), seed_table(jobs)
    assert table.columns == ["job", "seed", "loss.margin", "val/rsum", "test/i2t_r1", "test/rsum"]
    assert [row[0] for row in table.rows] == ["2", "1", "0", "3"]  # by validation
    assert means.columns == ["loss.margin", "runs", "val/rsum", "test/i2t_r1", "test/rsum"]
    assert means.rows == [["0.2", 1, "20.0", "1.0", "80.0"],
                          ["0.1", 2, "12.0 ± 2.8", "1.0 ± 0.0", "88.0 ± 2.8"]]  # fmt: skip
    write_table(tmp_path, *means, "summary_seeds")
    assert (tmp_path / "summary_seeds.csv").read_text().count("\n") == 3
    assert "12.0 ± 2.8" in (tmp_path / "summary_seeds.md").read_text()
    assert seed_table(jobs[2:]) is None


def test_a_job_that_repeats_another_counts_once(tmp_path, capsys):
    options = [("seed=0",), ("seed=0",), ("seed=1", "data.workers=2"), ("seed=1",)]
    for job, (val, given) in enumerate(zip([10.0, 10.0, 14.0, 15.0], options, strict=True)):
        rate = "lr=0.001" if job % 2 else "lr=1e-3"
        make_job(tmp_path, str(job), {"val/rsum": val, "test/rsum": val}, rate, *given)
    jobs = collect_jobs(tmp_path)
    assert repeated_jobs(jobs) == {"1": "0"}
    means = seed_table(jobs)
    assert means.columns == ["lr", "runs", "val/rsum", "test/rsum"]
    assert means.rows == [["1e-3", "3 (2 seeds)", "13.0 ± 2.6", "13.0 ± 2.6"]]
    assert seed_table(jobs[:2]) is None
    summary = Summary()
    summary._average(tmp_path, jobs[:2])
    assert capsys.readouterr().out == (
        "same options, seed and results, so counted once: job 1 repeats 0\n"
    )


def test_a_failed_or_damaged_job_is_a_row(tmp_path):
    make_job(tmp_path, "0", {"val/rsum": 10.0}, "seed=0")
    make_job(tmp_path, "1", {"val/rsum": 90.0}, "seed=1")  # of an earlier attempt
    (tmp_path / "1/failure.txt").write_text("out of | memory\n")
    make_job(tmp_path, "2", None, "seed=2")
    (tmp_path / "2/results.json").write_text("{")
    make_job(tmp_path, "3", None, "seed=3")
    (tmp_path / "3/.hydra/overrides.yaml").write_text("[")
    jobs = collect_jobs(tmp_path)
    table = job_table(jobs)
    assert [row[0] for row in table.rows] == ["0", "1", "2", "3"]
    cells = [row[-1] for row in table.rows]
    assert cells[0] == 10.0 and cells[1].startswith("failed: out of | memory")
    assert all(cell.startswith("failed: damaged: ") for cell in cells[2:])
    write_table(tmp_path, *table)
    assert len((tmp_path / "summary.md").read_text().splitlines()) == 6


def test_the_reason_of_a_failed_job_stands_below_the_table(tmp_path, capsys):
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    summary = Summary()
    summary.on_multirun_start(config)
    make_job(tmp_path, "0", {"val/rsum": 10.0, "val/i2t_r1": 1.0}, "seed=0")
    make_job(tmp_path, "1", None, "seed=1")
    (tmp_path / "1/failure.txt").write_text("model.embed_dim must be at least 1, got 0\n")
    with pytest.raises(SystemExit):
        summary.on_multirun_end(config)
    *table, count, reason = capsys.readouterr().out.splitlines()
    assert [line.count("failed") for line in table[1:] if "failed" in line] == [2]
    assert max(map(len, table[1:])) < 50 and not any("embed_dim" in line for line in table)
    assert count == "1 of 2 jobs failed:"
    assert reason == "  1: model.embed_dim must be at least 1, got 0"
    assert "model.embed_dim must be" in (tmp_path / "summary.md").read_text()


def test_a_sweep_that_replaces_nothing_leaves_the_earlier_one_whole(tmp_path):
    sweep = "-m", *SMALL, "max_epochs=1", "seed=0,1"
    run("train", *sweep, cwd=tmp_path)
    (tmp_path / "v.json").write_text("{}")  # which only the jobs notice

    def state():
        kept = [p for p in (tmp_path / "sweep").rglob("*") if p.is_file()]
        return {p: p.read_bytes() for p in kept if p.name not in (".lock", "multirun.yaml")}

    before, jobs = state(), collect_jobs(tmp_path / "sweep")
    text = run("train", *sweep, "overwrite=true", "data.vocab=v.json", cwd=tmp_path, fails=True)
    assert "2 of 2 jobs failed" in text and "test/rsum" in jobs[1]
    assert state() == before and collect_jobs(tmp_path / "sweep") == jobs


def test_a_new_job_has_a_table_even_if_all_earlier_ones_come_back(tmp_path, monkeypatch):
    """With sweep=joblib and sweep=slurm, a job does not decide about the others."""
    monkeypatch.setattr("itm.app.sweep_summary.restores", lambda: True)
    make_job(tmp_path, "0", {}, "seed=0")
    (tmp_path / "0" / "failure.txt").write_text("no")
    Summary()._summarise(tmp_path)
    assert not (tmp_path / "summary.csv").exists()
    make_job(tmp_path, "1", {"val/rsum": 2.0}, "seed=1")
    Summary()._summarise(tmp_path)
    assert "2.0" in (tmp_path / "summary.csv").read_text()


def test_jobs_of_an_earlier_sweep_are_left_out(tmp_path):
    make_job(tmp_path, "0", {"val/rsum": 1.0}, "seed=0")
    earlier = job_times(tmp_path)
    make_job(tmp_path, "1", {"val/rsum": 2.0}, "seed=1")
    assert [job["job"] for job in collect_jobs(tmp_path, earlier)] == ["1"]
    assert len(collect_jobs(tmp_path)) == 2


def test_dollars_in_the_plot_are_no_formula(tmp_path):
    pytest.importorskip("matplotlib")
    from itm.visual.sweep_figure import plot_jobs

    columns = ["job", "hydra/launcher", "val/rsum"]
    plot_jobs(columns, [["0", "$x^$_", 1.0], ["1", "y", "failed"]], tmp_path / "summary.png")
    assert (tmp_path / "summary.png").is_file()


ENDS = """
import signal

from pytorch_lightning.callbacks import Callback


class Exit(Callback):
    def on_train_batch_start(self, *arguments, **options):
        raise SystemExit(3)


class Late(Callback):
    def on_test_end(self, *arguments, **options):
        raise MemoryError("out of memory")


class Stop(Callback):
    def on_train_batch_start(self, *arguments, **options):
        raise KeyboardInterrupt


class Term(Callback):
    def on_train_batch_start(self, *arguments, **options):
        signal.raise_signal(signal.SIGTERM)
"""


def test_jobs_that_end_in_other_ways_leave_the_table(tmp_path):
    """One ends the process, one fails after its test; at a signal the sweep ends with its table."""
    (tmp_path / "ends.py").write_text(ENDS)
    fine = "pytorch_lightning.callbacks.LearningRateMonitor"
    for folder, kinds in {
        "all": ["ends.Exit", "ends.Late", fine],
        "some": [fine, "ends.Stop", fine],
        "stopped": [fine, "ends.Term", fine],
    }.items():
        command = [
            "train", "-m", *SMALL, f"hydra.sweep.dir={folder}",
            f"+callbacks.mine._target_={','.join(kinds)}",
        ]  # fmt: skip
        run(*command, cwd=tmp_path, fails=True, PYTHONPATH=search_path(tmp_path))
    table = (tmp_path / "all/summary.md").read_text().splitlines()
    assert [row[:5] for row in table[2:]] == ["| 2 |", "| 0 |", "| 1 |"]
    assert "failed: RuntimeError: the job ended the process (exit 3)" in table[3]
    assert "failed: MemoryError: out of memory" in table[4]
    for folder in ("some", "stopped"):
        table = (tmp_path / folder / "summary.md").read_text().splitlines()
        assert [row[:5] for row in table[2:]] == ["| 0 |", "| 1 |"]
        assert "failed" in table[3] and not (tmp_path / folder / "2").exists()


def search_path(folder):
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


def test_without_a_test_the_best_validation_comes_first(tmp_path):
    for job, (margin, seed, r1, rsum) in enumerate(
        [(0.1, 0, 60.0, 300.0), (0.1, 1, 60.0, 302.0), (0.2, 0, 50.0, 400.0), (0.2, 1, 50.0, 404.0)]
    ):
        found = {"val/i2t_r1": r1, "val/rsum": rsum}
        make_job(tmp_path, str(job), found, f"seed={seed}", f"loss.margin={margin}")
    assert [row[0] for row in seed_table(collect_jobs(tmp_path)).rows] == ["0.2", "0.1"]


def test_one_batch_and_all_batches_are_no_seeds_of_each_other(tmp_path):
    """In `trainer.limit_train_batches`, 1 is a number and 1.0 a fraction."""
    options = [("1", "1"), ("1.0", "1.0"), ("1", "1.0"), ("1.00", "1")]
    for job, (batches, rate) in enumerate(options):
        given = f"trainer.limit_train_batches={batches}", f"lr={rate}", f"seed={job}"
        make_job(tmp_path, str(job), {"val/rsum": float(job), "test/rsum": 1.0}, *given)
    rows = seed_table(collect_jobs(tmp_path)).rows
    assert sorted(row[2:4] for row in rows) == [[2, "1.0 ± 1.4"], [2, "2.0 ± 1.4"]]


def test_the_kind_of_sweep_is_no_column_and_replaced_jobs_are_no_jobs(tmp_path):
    """Hydra's record of a job that failed early names it, the run's own record does not."""
    for job, options in enumerate((["lr=1"], ["sweep=joblib", "lr=2"])):
        make_job(tmp_path, str(job), {"val/rsum": 1.0}, *options)
    make_job(tmp_path, "1/.replaced", {"val/rsum": 9.0}, "lr=3")
    jobs = collect_jobs(tmp_path)
    assert [job["job"] for job in jobs] == ["0", "1"]
    assert job_table(jobs).columns == ["job", "lr", "val/rsum"]
