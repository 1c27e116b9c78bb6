"""A value of a wrong type is refused before anything is built or written."""

import pytest

import itm
from itm import train
from itm.app import entry
from itm.app.option_types import check_types


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["max_epochs=two"], "max_epochs=two: expected a whole number, such as 10"),
        (["max_epochs=1.5"], "max_epochs=1.5: expected a whole number"),
        (["max_epochs=true"], "max_epochs=true: expected a whole number"),
        (["lr=fast"], "lr=fast: expected a number, such as 0.002"),
        (["lr=null"], "lr=null: expected a number"),
        (["optimizer.lr=fast"], "optimizer.lr=fast: expected a number"),
        (["margin=null"], "margin=null: expected a number, such as 0.2"),
        (["step_size=1.5"], "step_size=1.5: expected a whole number"),
        (["chunk_size=all"], "chunk_size=all: expected a whole number"),
        (["deterministic=maybe"], "deterministic=maybe: expected true or false"),
        (["trainer.deterministic=wrn"], "trainer.deterministic=wrn: expected true or false"),
        (["test=maybe"], "test=maybe: expected true or false"),
        (["data.limit=few"], "data.limit=few: expected a whole number"),
        (["data.limit=1.5"], "data.limit=1.5: expected a whole number"),
        (["data.batch_size=null"], "data.batch_size=null: expected a whole number, such as 128"),
        (["data.batch_size=[1,2]"], "expected a whole number, such as 128"),
        (["model.embed_dim=null"], "model.embed_dim=null: expected a whole number"),
        (["model=scan", "model.temperature=hot"], "temperature=hot: expected a number"),
        (["model=cvse", "model.level_weights=x"], "expected a number or a list of numbers"),
        (["trainer.limit_train_batches=few"], "trainer.limit_train_batches=few: expected a number"),
        (["trainer.fast_dev_run=perhaps"], "fast_dev_run=perhaps: expected true or false"),
        (["scheduler=cosine", "scheduler.total=x"], "scheduler.total=x: expected a whole number"),
        (["optimizer=sgd", "optimizer.momentum=x"], "optimizer.momentum=x: expected a number"),
        (["-m", "loss.margin=0.1,wide"], "loss.margin=wide: expected a number, such as 0.2"),
        (["-m", "lr=0.1,null"], "lr=null: expected a number"),
        (["-m", "loss.margin=-1,nan"], "loss.margin=nan must be a finite number"),
        (["gradient_clip_val=inf"], "gradient_clip_val=inf must be a finite number"),
        (["optimizer=adam", "optimizer.betas=[0.9,-inf]"], "betas=[0.9, -inf] must be a finite"),
        (["++loss.margin=nan"], "loss.margin=nan must be a finite number"),
        (["scheduler={_target_: a.B, gamma: nan}"], "must be a finite number"),
        (["-m", "model=scan,vsrn", "model.temperature=hot"], "model.temperature=hot: expected"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_types(arguments, said):
    with pytest.raises(ValueError) as caught:
        check_types("train", arguments)
    assert said.lower() in str(caught.value).lower() and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["step_size=null"], ["max_epochs=null"], ["gradient_clip_val=null"], ["lr=1"],
        ["data.resident=auto"], ["data.resident=true"], ["data.limit=null"],
        ["deterministic=warn"], ["trainer.fast_dev_run=3"], ["trainer.overfit_batches=2"],
        ["trainer.limit_val_batches=0.5"], ["trainer.val_check_interval=0.25"],
        ["trainer.devices=auto"], ["trainer.devices=[0,1]"], ["trainer.profiler=simple"],
        ["trainer.precision=16-mixed"], ["model=casc", "model.pos_weight=2.5"],
        ["lr=${margin}"], ["data.root=1e5"], ["+trainer.barebones=true"], ["no.such=x"],
        ["model=nothing", "lr=x"], ["-m", "loss.margin=0.1,0.2"], ["sweep=optuna", "lr=1e-3"],
        ["-m", "loss.margin=interval(0.1,0.5)"], ["model={_target_: a.B}"], ["warmup_epochs=0.5"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_right_types_and_what_others_report(arguments):
    check_types("train", arguments)


def test_a_sweep_with_a_wrong_value_runs_no_job(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train", "-m", "loss.margin=0.1,wide"])
    with pytest.raises(SystemExit):
        entry.run("train", train.run_job)
    assert "error: loss.margin=wide: expected a number" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_from_python():
    with pytest.raises(ValueError, match="model.embed_dim=wide: expected a whole number"):
        itm.build(overrides=["model.embed_dim=wide"])


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("seed=-1", "seed=-1 must be at least 0"),
        ("seed=4294967296", "must be below 2"),
        ("chunk_size=0", "chunk_size=0 must be at least 1"),
        ("gradient_clip_val=-1", "gradient_clip_val=-1 must be at least 0"),
        ("max_epochs=-3", "max_epochs=-3 must be at least 0, or -1 for no limit"),
        ("data.workers=-1", "data.workers=-1 must be at least 0"),
        ("trainer.accumulate_grad_batches=0", "accumulate_grad_batches=0 must be at least 1"),
        ("trainer.devices=abc", "Trainer cannot be built with these options: `devices`"),
    ],
)
def test_ranges(option, said, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train", option, "data.root.images=[4,4,4]"])
    with pytest.raises(SystemExit):
        entry.run("train", train.run_job)
    text = capsys.readouterr().err
    assert said in text and "Traceback" not in text


def test_a_variable_is_text_unless_it_is_decoded(monkeypatch):
    monkeypatch.setenv("ITM_TEST_MARGIN", "0.1")
    check_types("train", ['margin="${oc.decode:${oc.env:ITM_TEST_MARGIN}}"'])
    check_types("train", ["margin=${oc.env:ITM_TEST_MISSING}"])  # Hydra reports it
    with pytest.raises(ValueError, match=r"the text '0\.1', expected a number.*margin=\$NAME"):
        check_types("train", ["margin=${oc.env:ITM_TEST_MARGIN}"])
    monkeypatch.setenv("ITM_TEST_MARGIN", "wide")
    with pytest.raises(ValueError, match="the text 'wide', expected a number"):
        check_types("train", ['margin="${oc.decode:${oc.env:ITM_TEST_MARGIN}}"'])
    for value, message in (("1.5", "is 1.5: expected a whole number"), ("nan", "must be a finite")):
        monkeypatch.setenv("ITM_TEST_EPOCHS", value)
        with pytest.raises(ValueError, match=message):
            check_types("train", ['max_epochs="${oc.decode:${oc.env:ITM_TEST_EPOCHS}}"'])
