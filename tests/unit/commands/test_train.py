import csv
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cli import run
from fast import FAST

import itm
from itm.runs.training_results import _best_validation

VSRN = (*FAST, "model=vsrn", "model.caption_dim=16", "model.caption_word_dim=16")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One run of a few seconds that several tests look at."""
    folder = tmp_path_factory.mktemp("runs")
    text = run("train", *VSRN, "hydra.run.dir=run", cwd=folder)
    return folder, text


def test_a_run_leaves_everything_behind(trained):
    folder, text = trained
    results = json.loads((folder / "run/results.json").read_text())
    assert 0 < results["test/rsum"] <= 600
    assert results["versions"]["torch"] == torch.__version__
    assert f"{results['test/rsum']:.1f}" in text
    assert (folder / "run/checkpoints/best.ckpt").is_file()
    assert (folder / "run/.hydra/overrides.yaml").is_file()
    header = (folder / "run/csv/metrics.csv").read_text().splitlines()[0]
    for name in ("train/loss", "train/ranking", "val/rsum", "val/i2t_r1", "lr-Adam"):
        assert name in header


def test_the_table_shows_the_validation_of_the_best_checkpoint(trained):
    folder, text = trained
    results = json.loads((folder / "run/results.json").read_text())
    with (folder / "run/csv/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["val/rsum"]]
    best = max(rows, key=lambda row: float(row["val/rsum"]))
    names = [name for name in best if name.startswith("val/")]
    assert len(names) == 11 and all(results[name] == float(best[name]) for name in names)
    (line,) = [line for line in text.splitlines() if line.startswith("│ val ")]
    assert all(f" {float(best[f'val/{x}']):.1f} " in line for x in ("i2t_r1", "t2i_r10", "rsum"))


@pytest.mark.parametrize(
    ("monitor", "mode"), [("val/i2t_r1", "max"), ("val/t2i_meanr", "min"), ("train/loss", "min")]
)
def test_the_best_validation_is_that_of_the_monitor(monitor, mode, tmp_path):
    checkpoint = f"callbacks.checkpoint.monitor={monitor}", f"callbacks.checkpoint.mode={mode}"
    run("train", *VSRN, *checkpoint, "max_epochs=3", "test=false", "hydra.run.dir=run",
        cwd=tmp_path)  # fmt: skip
    results = json.loads((tmp_path / "run/results.json").read_text())
    with (tmp_path / "run/csv/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["val/rsum"]]
    saved = torch.load(tmp_path / "run/checkpoints/best.ckpt", weights_only=True)
    (row,) = [row for row in rows if int(row["epoch"]) == saved["epoch"]]
    assert all(results[name] == float(row[name]) for name in row if name.startswith("val/"))


def test_of_equal_scores_the_saved_one_counts(tmp_path):
    """best.ckpt is written every second epoch, and the monitor is the same in all of them."""
    torch.save({"global_step": 8}, tmp_path / "best.ckpt")
    keeper = SimpleNamespace(
        best_model_score=2.0, monitor="val/t2i_r1", best_model_path=str(tmp_path / "best.ckpt")
    )
    steps = np.array([3, 7, 11])
    curves = {
        "val/t2i_r1": (steps, np.array([2.0, 2.0, 2.0])),
        "val/rsum": (steps, np.array([42.4, 44.4, 46.4])),
    }
    assert _best_validation(keeper, curves) == {"val/t2i_r1": 2.0, "val/rsum": 44.4}
    keeper.best_model_path = str(tmp_path / "gone.ckpt")
    assert _best_validation(keeper, curves)["val/rsum"] == 42.4


def test_a_split_that_was_scored_in_part_is_marked_and_reported_apart(tmp_path):
    limits = "trainer.limit_test_batches=1", "trainer.limit_train_batches=2"
    text = run("train", *VSRN, *limits, "hydra.run.dir=run", cwd=tmp_path)
    assert "│ test (part) │" in text and "│ val         │" in text
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["partial"] == ["test"] and 0 < results["images"] < 64
    assert not (tmp_path / "run/ranks.npz").exists()  # they are not those of the split
    text = run("report", "runs=run", "out=page", cwd=tmp_path)
    assert f"{results['images']} images" in text


def test_a_fast_run_has_no_row_of_a_validation_that_was_not_kept(tmp_path):
    text = run("train", *VSRN, "trainer.fast_dev_run=true", "hydra.run.dir=run", cwd=tmp_path)
    assert "│ val" not in text and "│ test (part) │" in text
    assert "no best checkpoint: fast_dev_run writes none" in text
    assert not list(tmp_path.rglob("*.ckpt")) and "last step" not in text
    assert "val/rsum" not in json.loads((tmp_path / "run/results.json").read_text())


def test_a_checkpoint_is_a_matcher_with_its_words(trained):
    folder, _ = trained
    matcher = itm.load(folder / "run")
    assert not matcher.training and "red" in matcher.vocab.words
    scores = matcher.score(np.zeros((2, 12, 64), np.float32), ["a red ball", "a dog", "two cats"])
    assert scores.shape == (2, 3) and np.isfinite(scores).all()


def test_resume_continues_epochs_and_optimiser(tmp_path):
    whole = run("train", *VSRN, "hydra.run.dir=whole", "trainer.max_epochs=2", cwd=tmp_path)
    run("train", *VSRN, "hydra.run.dir=part", "trainer.max_epochs=1", cwd=tmp_path)
    run("train", "resume=part", "trainer.max_epochs=2", cwd=tmp_path)
    a, b = (
        torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True)
        for name in ("whole", "part")
    )
    assert "rsum" in whole and a["epoch"] == b["epoch"]
    for key, value in a["state_dict"].items():
        torch.testing.assert_close(value, b["state_dict"][key], rtol=0, atol=0)


def test_init_takes_weights_only(trained, tmp_path):
    folder, _ = trained
    run("train", *VSRN, f"init={folder}/run", "optimizer.lr=0", "hydra.run.dir=next", cwd=tmp_path)
    old, new = (dict(itm.load(x).named_parameters()) for x in (folder / "run", tmp_path / "next"))
    assert old.keys() == new.keys()
    for name, weight in old.items():
        assert torch.equal(weight, new[name]), name


def test_a_sweep_ends_with_one_table(tmp_path):
    text = run(
        "train", "-m", "trainer=fast", "model=scan,vsrn", "loss.margin=0.1,0.3",
        "model.embed_dim=16", "model.word_dim=8", "hydra.sweep.dir=sweep", cwd=tmp_path,
    )  # fmt: skip
    with (tmp_path / "sweep/summary.csv").open() as file:
        header, *rows = csv.reader(file)
    assert len(rows) == 4 and header[:3] == ["job", "model", "loss.margin"]
    assert {tuple(row[1:3]) for row in rows} == {
        (model, margin) for model in ("scan", "vsrn") for margin in ("0.1", "0.3")
    }
    assert "4 jobs" in text
    assert (tmp_path / "sweep/summary.md").read_text().count("\n") == 6
    assert (tmp_path / "sweep/summary.png").stat().st_size > 1000


def test_evaluate_one_and_an_ensemble(trained, tmp_path):
    folder, _ = trained
    run("evaluate", f"checkpoint={folder}/run", "data.limit=64", "save_similarity=true",
        "hydra.run.dir=one", cwd=tmp_path)  # fmt: skip
    report = json.loads((tmp_path / "one/report.json").read_text())
    one = report["results"]
    trained_results = json.loads((folder / "run/results.json").read_text())
    assert report["weights"] == [trained_results["weights"]]
    assert report["content"] == trained_results["content"]
    assert one[f"{folder}/run"]["rsum"] == pytest.approx(trained_results["test/rsum"])
    shutil.copy(folder / "run/checkpoints/best.ckpt", tmp_path / "copy.ckpt")
    run("evaluate", f"checkpoint=[{folder}/run,copy.ckpt]", "data.limit=64",
        "hydra.run.dir=two", cwd=tmp_path)  # fmt: skip
    two = json.loads((tmp_path / "two/report.json").read_text())["results"]
    assert two["ensemble of 2"]["rsum"] == pytest.approx(one[f"{folder}/run"]["rsum"])
    run("evaluate", "similarity=one/similarity_0.npy", "data.limit=64", "relevance=cider",
        "hydra.run.dir=three", cwd=tmp_path)  # fmt: skip
    three = json.loads((tmp_path / "three/report.json").read_text())["results"]
    assert three["one/similarity_0.npy"]["rsum"] == pytest.approx(one[f"{folder}/run"]["rsum"])
    assert three["one/similarity_0.npy"]["i2t_ncs_10"] > 0


@pytest.mark.parametrize(
    "module, arguments, message",
    [
        ("train", ("data=coco",), "error: this data set needs data.root=DIR"),
        ("train", ("data=coco", "data.root=nowhere"), "no such folder"),
        ("train", ("resume=nowhere",), "no checkpoint at nowhere/checkpoints/last.ckpt"),
        ("evaluate", (), "error: give either checkpoint=FOLDER or similarity=FILE.npy"),
        ("evaluate", ("checkpoint=nowhere",), "nothing to load at nowhere; looked for"),
        ("evaluate", ("checkpoint=https://x.org/a.ckpt",), "https://x.org/a.ckpt is an address"),
        ("train", ("data=scenes", "init=https://x.org/a.ckpt"), "//x.org/a.ckpt is an address"),
        ("convert", (), "error: give published=... and out=..."),
        ("convert", ("published=nowhere", "out=x"), "no checkpoint at nowhere"),
    ],
)
def test_mistakes_end_in_one_clear_line(module, arguments, message, tmp_path):
    text = run(module, *arguments, cwd=tmp_path, fails=True)
    assert message in text and "Traceback" not in text


def test_the_log_of_a_refused_run_has_the_reason(tmp_path):
    run("train", "model.embed_dim=0", "hydra.run.dir=run", cwd=tmp_path, fails=True)
    log = (tmp_path / "run/train.log").read_text()
    assert "error: model.embed_dim must be at least 1, got 0" in log


def test_own_model_and_loss_from_a_config_folder(tmp_path):
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/loss").mkdir()
    (tmp_path / "conf/model/mean.yaml").write_text(
        "_target_: toy.MeanMatcher\nvocab_size: null\nimg_dim: null\nembed_dim: 32\n"
    )
    (tmp_path / "conf/loss/mine.yaml").write_text("_target_: itm.losses.Triplet\nmargin: 0.1\n")
    text = run(
        "train", "--config-dir", "conf", "model=mean", "loss=mine", "trainer=fast", cwd=tmp_path
    )
    assert "mean mine scenes" in text


def test_prepare_checks_a_folder_and_writes_its_files(tmp_path):
    text = run("prepare", "data.root.images=[40,20,20]", "out=made", cwd=tmp_path,
               ITM_CACHE=str(tmp_path / "cache"))  # fmt: skip
    assert "40 images, 200 captions" in text
    for name in ("vocab.json", "concepts.json", "labels.json", "cider.npz"):
        assert (tmp_path / "made" / name).stat().st_size > 0
    assert json.loads((tmp_path / "made/labels.json").read_text())["images"] == 40


def test_an_epoch_that_a_run_has_passed_changes_nothing(trained, tmp_path):
    shutil.copytree(trained[0] / "run", tmp_path / "run")
    run("train", "resume=run", "max_epochs=2", cwd=tmp_path)
    record = (tmp_path / "run/run.json").read_bytes()
    text = run("train", "resume=run", "max_epochs=1", cwd=tmp_path, fails=True)
    assert "max_epochs=1, but" in text and "has trained 2 epochs already: give at least 2" in text
    text = run("train", "resume=run", "trainer.max_steps=1", cwd=tmp_path, fails=True)
    assert "trainer.max_steps=1, but" in text and "steps already: give at least" in text
    assert (tmp_path / "run/run.json").read_bytes() == record


def test_a_moved_run_names_its_own_best_checkpoint(trained, tmp_path):
    shutil.copytree(trained[0] / "run", tmp_path / "moved")
    text = run("train", "resume=moved", "max_epochs=3", cwd=tmp_path)
    assert "restored the weights of the best val rsum" in " ".join(text.split())
    assert f"best checkpoint: {tmp_path / 'moved/checkpoints/best.ckpt'}" in text


def test_build_has_the_initial_weights_of_a_run_with_its_seed(tmp_path):
    """With a rate of 0 a run ends with the weights that it began with."""
    options = ["model.embed_dim=8", "model.word_dim=4", "data.root.images=[8,4,4]", "seed=3"]
    options += ["data.batch_size=20", "lr=0"]
    fixed = ["trainer=cpu", "max_epochs=1", "test=false", "hydra.run.dir=run"]
    run("train", "model=scan", *options, *fixed, cwd=tmp_path)
    saved = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=False)["state_dict"]
    for name, value in itm.build("scan", overrides=options).named_parameters():
        assert torch.equal(value, saved[name]), name


def test_a_checkpoint_of_a_run_with_other_options(tmp_path):
    """Its command names the folder of its files; what changes is told, as with resume=RUN."""
    (tmp_path / "conf/loss").mkdir(parents=True)
    (tmp_path / "conf/loss/mine.yaml").write_text("_target_: itm.losses.Triplet\nmargin: 0.1\n")
    options = [*FAST, "model=two_branch_embedding", "loss=mine", "test=false"]
    run("train", "--config-dir", "conf", *options, "hydra.run.dir=run", cwd=tmp_path)
    command = json.loads((tmp_path / "run/results.json").read_text())["command"]
    assert command.endswith(f" --config-dir={tmp_path / 'conf'}")
    text = run(
        "train", "--config-dir", "conf", *options, "loss.margin=0.3", "max_epochs=3",
        "resume=run/checkpoints/last.ckpt", "hydra.run.dir=other", cwd=tmp_path,
    )  # fmt: skip
    assert f"resuming with other options than {tmp_path / 'run'}: loss.margin 0.1 -> 0.3" in text
    options = [*FAST, "model=vsepp", "resume=run/checkpoints/last.ckpt", "hydra.run.dir=third"]
    text = run("train", "--config-dir", "conf", *options, cwd=tmp_path, fails=True)
    assert "last.ckpt: a resumed run cannot change model._target_ " in text and "VSEPP" in text
    options = [
        *FAST,
        "model=two_branch_embedding",
        "resume=run/checkpoints/last.ckpt",
        "test=false",
    ]
    text = run("train", *options, "seed=3", "hydra.run.dir=fourth", cwd=tmp_path, fails=True)
    assert "last.ckpt: a resumed run cannot change seed 0 -> 3" in text  # nor without --config-dir
    text = run("train", *options, "max_epochs=3", "hydra.run.dir=fifth", cwd=tmp_path)
    assert "loss.margin 0.1 -> 0.2" in text


def test_a_validation_on_the_test_is_told(tmp_path):
    options = ["model=two_branch_embedding", "data.val=test", "hydra.run.dir=run"]
    text = " ".join(run("train", *FAST, *options, cwd=tmp_path).split())
    assert "images of test have the captions of images of the validation (test), which choo" in text
