"""Which folders a run may use, and what a resumed run may change; nothing is written before."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra.types import RunMode
from omegaconf import OmegaConf

from itm.app.arguments import value_of
from itm.app.config import compose
from itm.app.processes import RANKS, check_launcher
from itm.app.replaced import delete_earlier, recover, settle
from itm.app.resume_changes import check_changes
from itm.app.resume_options import read_recorded
from itm.app.run_data import check_result_folder
from itm.app.run_folder import claim, use_folder
from itm.app.training_run import Settle
from itm.utils.errors import TakenError

SMALL = ["model=scan", "data.root.images=[8,4,4]", "loss.margin=0.5"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run folder `run` in the working folder, with a checkpoint that is whole."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("itm.app.replaced._waiting", [])  # a process begins
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    torch.save({}, folder / "checkpoints/last.ckpt")
    (folder / "run.json").write_text(json.dumps({"overrides": SMALL}))
    return folder


def files(folder):
    return sorted(p.relative_to(folder) for p in folder.rglob("*") if p.name != ".lock")


@pytest.mark.parametrize("form", ["resume=run", "resume='run'", 'resume="run"'])
def test_a_record_is_read_however_it_is_named(form, run):
    used = use_folder([form, "max_epochs=2", "loss.margin=0.3"])
    assert used == [*SMALL[:2], "hydra.run.dir=run", form, "max_epochs=2", "loss.margin=0.3"]


def test_a_name_with_blanks_and_commas(run):
    run.rename(run.parent / "my run, one")
    used = use_folder(["resume='my run, one'"])
    assert used == [*SMALL, "hydra.run.dir='my run, one'", "resume='my run, one'"]


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "cannot read"), ("{", "cannot read"), ("[]", "cannot read"), ("{}", "cannot read"),
     ('{"overrides": 3}', "not a list"), (None, "no run.json")],
)  # fmt: skip
def test_a_record_that_cannot_be_read(text, said, run):
    record = run / "run.json"
    record.unlink() if text is None else record.write_text(text)
    before = files(run)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        use_folder(["resume=run"])
    assert files(run) == before


def test_a_wrong_place_leaves_no_trace(run):
    before = files(run.parent)
    for wrong in ("nowhere", "run/checkpoints/first.ckpt"):
        with pytest.raises(FileNotFoundError, match="no checkpoint at"):
            use_folder([f"resume={wrong}", "hydra.run.dir=new"])
    assert files(run.parent) == before


def test_a_used_folder_is_refused_resumed_or_replaced(run):
    (run / "results.json").write_text("{}")
    (run / "notes.txt").write_text("mine")
    given = [*SMALL, "hydra.run.dir=run"]
    before = files(run)
    with pytest.raises(ValueError, match="run holds a run already.*: continue it with resume=true"):
        use_folder(given)
    with pytest.raises(ValueError, match=r"already, with other options \(.*\+trainer.max_time=1\)"):
        use_folder([*given, "trainer.max_time=1"])
    assert files(run) == before
    assert use_folder([*given, "resume=true"]) == [*given, "resume=true"]
    assert files(run) == before
    with pytest.raises(ValueError, match="give one of them"):
        use_folder([*given, "resume=true", "overwrite=true"])
    use_folder([*given, "overwrite=true"])
    assert {str(p) for p in files(run) if p.parts[0] != ".replaced"} == {"notes.txt"}
    (run / "run.json").write_text("{}")  # the new run begins
    delete_earlier(run)
    assert [str(p) for p in files(run)] == ["notes.txt", "run.json"]


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("recorded", [False, True])  # in run.json: the Trainer refuses an option
def test_a_new_run_that_does_not_train_deletes_nothing(run, killed, recorded, monkeypatch):
    before, record = files(run), (run / "run.json").read_text()
    use_folder([f"hydra.run.dir={run}", "overwrite=true", "loss.margn=0.1"])
    (run / ".hydra").mkdir()  # written by Hydra before the data turn out to be wrong
    (run / "train.log").write_text("")
    if recorded:
        (run / "run.json").write_text("{}")
    if killed:
        monkeypatch.setattr("itm.app.replaced._waiting", [])
        with pytest.raises(ValueError, match="holds a run already"):
            use_folder([f"hydra.run.dir={run}"])
    else:
        settle()
    added = {path for path in files(run)} - set(before)
    assert set(before) <= set(files(run)) and {str(p) for p in added} == {".hydra", "train.log"}
    assert (run / "run.json").read_text() == record


@pytest.mark.parametrize("name", ["failure.txt", "run.json", "results.json", "checkpoints"])
def test_an_error_while_a_run_is_put_aside_is_undone(name, run, monkeypatch):
    """A file may be open elsewhere."""
    (run / "results.json").write_text("{}")
    (run / "failure.txt").write_text("out of memory")
    before, rename = files(run), Path.rename

    def fail(path, target):
        if path == run / name:
            raise PermissionError("in use")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(PermissionError):
        use_folder([f"hydra.run.dir={run}", "overwrite=true"])
    settle()
    assert files(run) == before


def test_a_restored_run_has_not_failed(run):
    """A report of the sweep would list the failure of the run that was to replace it."""
    before = files(run)
    use_folder([f"hydra.run.dir={run}", "overwrite=true"])
    (run / "failure.txt").write_text("a wrong option")
    settle()
    assert files(run) == before
    (run / "failure.txt").write_text("out of memory")
    use_folder([f"hydra.run.dir={run}", "overwrite=true"])
    (run / "failure.txt").write_text("a wrong option")
    settle()
    assert (run / "failure.txt").read_text() == "out of memory"


def test_a_run_looks_for_an_earlier_one_once(run, monkeypatch):
    seen = []
    monkeypatch.setattr("itm.app.training_run.delete_earlier", seen.append)
    once, trainer = Settle(run), SimpleNamespace(is_global_zero=True, global_step=1)
    for step in range(3):
        once.on_train_batch_end(trainer, None, None, None, step)
    assert seen == [run]


def test_an_earlier_run_is_deleted_after_a_step_of_the_new_one(run):
    """The first batch may still be refused."""
    use_folder([f"hydra.run.dir={run}", "overwrite=true"])
    settle_once, trainer = Settle(run), SimpleNamespace(is_global_zero=True, global_step=0)
    settle_once.on_train_batch_end(trainer, None, None, None, 0)  # accumulates
    assert (run / ".replaced").is_dir()
    trainer.global_step = 1
    settle_once.on_train_batch_end(trainer, None, None, None, 1)
    assert not (run / ".replaced").exists()


def test_an_earlier_run_that_is_half_deleted_is_not_restored(run, monkeypatch):
    use_folder([f"hydra.run.dir={run}", "overwrite=true"])
    (run / "run.json").write_text("{}")
    monkeypatch.setattr("itm.app.replaced.shutil.rmtree", lambda *_, **__: None)  # killed there
    delete_earlier(run)
    monkeypatch.undo()
    assert (run / ".deleted").is_dir()
    recover(run)
    assert [str(p) for p in files(run)] == ["run.json"]


def test_a_sweep_with_fewer_jobs_leaves_no_earlier_one(run):
    for number in "01":
        (run.parent / number).mkdir()
        (run.parent / number / "run.json").write_text("{}")
    use_folder(["-m", "seed=0", f"hydra.sweep.dir={run.parent}", "overwrite=true"])
    (run.parent / "0/run.json").write_text("{}")
    delete_earlier(run.parent / "0")
    assert files(run.parent / "0") != [] and files(run.parent / "1") == []


@pytest.mark.parametrize("killed", [False, True])
def test_jobs_in_processes_of_their_own_replace_earlier_ones(run, killed, monkeypatch):
    """The process of a parallel sweep knows all jobs, and each job its own folder."""
    for number in "01":
        (run.parent / number).mkdir()
        (run.parent / number / "run.json").write_text("old")
    options = ["seed=0,1", f"hydra.sweep.dir={run.parent}", "overwrite=true"]
    use_folder(["-m", "sweep=joblib", *options])
    job = run.parent / "0"
    (job / "run.json").write_text("new")
    trains = (
        "import sys; from pathlib import Path; from itm.app.training_run import Settle; "
        "Settle(Path(sys.argv[1])).replace_earlier()"
    )
    subprocess.run([sys.executable, "-c", trains, job], check=True)
    if killed:  # the process of the sweep
        monkeypatch.setattr("itm.app.replaced._waiting", [])
        recover(job)
    else:
        settle()
        assert files(run.parent / "1") == []  # as in a sweep whose jobs run one after another
    assert (job / "run.json").read_text() == "new" and len(files(job)) == 1


@pytest.mark.parametrize("sweep", ["joblib", "my_launcher"])
def test_a_sweep_that_starts_one_run_is_refused(sweep, run):
    if sweep == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    (run.parent / "sweep").mkdir()
    (run.parent / "sweep/my_launcher.yaml").write_text("hydra: {job: {chdir: false}}")
    own = [f"--config-dir={run.parent}", f"sweep={sweep}"]
    with pytest.raises(ValueError, match=f"sweep={sweep} only chooses where jobs run: add -m"):
        use_folder([*own, "hydra.run.dir=new"])
    for several in ([*own, "-m"], ["sweep=temperatures"], ["sweep=no_such_file"]):
        assert use_folder([*several, "hydra.sweep.dir=new"])
    with pytest.raises(ValueError, match="run holds a run already"):
        use_folder(["sweep=null", "hydra.run.dir=run"])


def test_a_sweep_without_resume_does_not_use_an_earlier_one(run):
    run.rename(run.parent / "0")
    for no in ("null", "false"):
        with pytest.raises(ValueError, match="holds a run already"):
            use_folder(["-m", "seed=0,1", f"hydra.sweep.dir={run.parent}", f"resume={no}"])


@pytest.mark.parametrize("turn", [1, -1])
def test_a_run_is_continued_in_the_folder_that_is_given(turn, run):
    given = ["resume=run", "hydra.run.dir=other"][::turn]
    used = use_folder(given)
    assert value_of(used, "hydra.run.dir") == "other" and SMALL[0] in used
    shutil.copytree(run, "other", dirs_exist_ok=True)
    assert value_of(use_folder(["resume=run", "hydra.run.dir=./run"]), "resume") == "run"
    before = files(run.parent)
    with pytest.raises(TakenError, match="other holds a run already"):
        use_folder(given)
    assert files(run.parent) == before


def test_curves_and_profiles_of_an_earlier_run_are_replaced(run):
    for name in ("tensorboard/events", "mlflow/0/meta.yaml", "wandb/latest", "fit-profile.txt",
                 "test-profile-0.txt", "my-profile.txt"):  # fmt: skip
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("")
    before = files(run)
    use_folder([f"hydra.run.dir={run}", "overwrite=true"])
    assert {str(p) for p in files(run) if p.parts[0] != ".replaced"} == {"my-profile.txt"}
    settle()
    assert files(run) == before


def test_checkpoints_of_others_are_not_deleted(run):
    (run / "run.json").unlink()
    with pytest.raises(ValueError, match="no run.json"):
        use_folder([f"hydra.run.dir={run}", "overwrite=true"])
    assert (run / "checkpoints").is_dir()


def test_help_and_a_new_folder_are_left_alone(run):
    for given in (["--cfg", "job", "hydra.run.dir=run"], ["hydra.run.dir=new"], ["--help"], []):
        assert use_folder(given) == given


def test_a_used_sweep_folder_is_refused(run):
    run.rename(run.parent / "0")
    given = ["-m", "seed=0,1", f"hydra.sweep.dir={run.parent}"]
    with pytest.raises(ValueError, match="holds a run already"):
        use_folder(given)
    use_folder([*given, "overwrite=true"])


def test_a_folder_with_references_is_checked_as_hydra_resolves_it(run):
    given = [*SMALL, "seed=7", "hydra.run.dir=run${seed}"]
    (run / "run.json").write_text(json.dumps({"overrides": [*SMALL, "seed=7"]}))
    run.rename(run.parent / "run7")
    with pytest.raises(ValueError, match="run7 holds a run already"):
        use_folder(given)
    assert use_folder([*given, "resume=true"]) == [*given, "resume=true"]
    with pytest.raises(ValueError, match="cannot change data.noise_ratio 0.0 -> 0.5"):
        use_folder([*given, "resume=true", "data.noise_ratio=0.5"])
    jobs = [*SMALL, "hydra.mode=MULTIRUN", "seed=0,1", "hydra.sweep.dir=.", "model.embed_dim=8"]
    with pytest.raises(ValueError, match="run7 holds a run already"):
        use_folder(jobs)


@pytest.mark.parametrize("true", ["True", "TRUE"])
def test_true_may_be_written_as_in_python(true, run):
    given = [*SMALL, "hydra.run.dir=run"]
    assert use_folder([*given, f"resume={true}"])
    use_folder([*given, f"overwrite={true}"])
    assert (run / ".replaced").is_dir()
    settle()


@pytest.mark.parametrize("mode", [RunMode.RUN, RunMode.MULTIRUN])
def test_the_folder_of_a_job_is_claimed_when_hydra_has_made_it(mode, run, monkeypatch):
    monkeypatch.setattr(
        "itm.app.run_folder.HydraConfig.get",
        lambda: OmegaConf.create(
            {
                "runtime": {"config_sources": []},
                "mode": mode,
                "sweep": {"dir": str(run.parent)},
                "sweeper": {},
            }
        ),
    )
    claim(run.parent / "new", None, SMALL)
    with pytest.raises(TakenError, match="run holds a run already"):
        claim(run, None, SMALL)
    claim(run, True, SMALL)
    with pytest.raises(ValueError, match="a resumed run cannot change seed 0 -> 1"):
        claim(run, True, [*SMALL, "seed=1"])


def test_jobs_that_begin_at_once_have_folders_of_their_own():
    assert len({compose([], with_hydra=True).hydra.run.dir for _ in range(3)}) == 3


def test_a_relative_path_of_a_run_is_that_of_its_working_folder(run, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    options = ["data=flickr8k", "data.root=data", "data.vocab=missing.json"]
    kept = {"runtime": {"cwd": str(tmp_path)}}
    (run / "run.json").write_text(json.dumps({"overrides": options, "configuration": kept}))
    assert read_recorded(run) == options
    monkeypatch.chdir(run)
    assert read_recorded(run) == [
        "data=flickr8k", f"data.root={tmp_path / 'data'}", "data.vocab=missing.json"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [["hydra.run.dir=run", "resume=true"], ["-m", "hydra.sweep.dir=run", "seed=0,1"],
     ["-m", "hydra.sweep.dir=run", "seed=0,1", "resume=true"]],
)  # fmt: skip
def test_a_folder_in_use_is_refused(options, run):
    """A sweep, too: Hydra would write the options of its jobs before they lock their folders."""
    code = (
        "import sys; from itm.app.run_folder import use_folder; "
        f"use_folder([*{SMALL}, *{options}]); print('locked', flush=True); "
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        while "locked" not in other.stdout.readline():
            assert other.poll() is None
        with pytest.raises(ValueError, match="run is in use: another process"):
            use_folder([*SMALL, *options])
        other.communicate("")


@pytest.mark.parametrize(
    ("environment", "processes", "said"),
    [
        ({}, 1, None),
        ({"WORLD_SIZE": "2", "RANK": "0"}, 2, None),
        ({"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}, 2, None),
        ({"LOCAL_RANK": "1"}, 2, None),  # launched by Lightning
        ({"WORLD_SIZE": "2", "RANK": "0"}, 1, "one of 2, but the trainer works with 1"),
        ({"WORLD_SIZE": "4", "RANK": "3"}, 2, "one of 4, but the trainer works with 2"),
        ({"SLURM_PROCID": "1"}, 1, "not the first one, but the trainer works with 1"),
        ({"NODE_RANK": "1"}, 2, None),  # started by hand on every node
        ({"NODE_RANK": "1"}, 1, "not the first one, but the trainer works with 1"),
        ({"NODE_RANK": "1"}, 1, "environment has NODE_RANK=1.* unset these variables"),
    ],
)
def test_processes_that_would_train_alone_are_refused(environment, processes, said, monkeypatch):
    for name in ("WORLD_SIZE", *RANKS):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if said is None:
        return check_launcher(processes)
    with pytest.raises(ValueError, match=said):
        check_launcher(processes)


@pytest.mark.parametrize("name", ["LOCAL_RANK", "NODE_RANK", "GROUP_RANK"])
def test_another_process_of_the_same_run_is_not_asked(name, run, monkeypatch):
    monkeypatch.setenv(name, "1")
    assert use_folder(["hydra.run.dir=run"]) == ["hydra.run.dir=run"]


@pytest.mark.parametrize(
    "option",
    ["seed=1", "model=vsrn", "model.direction=i2t", "data.noise_ratio=0.5", "data.fraction=0.5",
     "data.val=train", "data.val_images=2",
     "init=elsewhere", "optimizer._target_=torch.optim.SGD", "~scheduler", "scheduler=null",
     "optimizer=sgd", "scheduler=cosine", "loss=sam", "step_size=null",
     "+optimizer.betas=[0.5,0.9]",
     "scheduler.interval=step", "+optimizer.amsgrad=true", "callbacks=ema",
     "callbacks.checkpoint.monitor=val/i2t_r1"],
)  # fmt: skip
def test_what_a_resumed_run_cannot_change(option):
    with pytest.raises(ValueError, match=r"a resumed run cannot change .* -> .*init=RUN_FOLDER"):
        check_changes(SMALL, [*SMALL, option])


@pytest.mark.parametrize(
    ("loss", "option"),
    [("infonce", "temperature=0.1"), ("infonce", "learn=false"), ("sigmoid", "scale=5"),
     ("sigmoid", "bias=-5"), ("pcmepp", "init_shift=1"), ("pcmepp", "init_negative_scale=1"),
     ("multilabel", "pos_weight=2")],
)  # fmt: skip
def test_what_a_loss_has_learnt_stays(loss, option):
    """The checkpoint restores these values, so that another start would have no effect."""
    before = [*SMALL[:2], f"loss={loss}"]
    with pytest.raises(ValueError, match=f"cannot change loss.{option.partition('=')[0]} "):
        check_changes(before, [*before, f"loss.{option}"])


@pytest.mark.parametrize(
    ("schedule", "option"),
    [
        ("onecycle", "max_epochs=9"),
        ("onecycle", "optimizer.lr=1"),
        ("onecycle", "scheduler.pct_start=0.5"),
        ("plateau", "lr=1"),
        ("plateau", "scheduler.mode=min"),
    ],
)
def test_what_a_schedule_keeps_in_its_state(schedule, option):
    before = [*SMALL, f"scheduler={schedule}"]
    with pytest.raises(ValueError, match=f"cannot change {option.partition('=')[0]} .* -> "):
        check_changes(before, [*before, option])
    check_changes(before, [*before, "loss.margin=0.1"])
    if option == "max_epochs=9":
        with pytest.raises(ValueError, match="onecycle planned all its steps at the beginning"):
            check_changes(before, [*before, option])


def test_a_new_choice_of_a_group_drops_its_recorded_options(run):
    recorded = ["max_epochs=3", "callbacks=early_stopping", "callbacks.early_stopping.patience=2"]
    (run / "run.json").write_text(json.dumps({"overrides": recorded}))
    assert use_folder(["resume=run", "callbacks=default"])[0] == "max_epochs=3"
    assert recorded[2] not in use_folder(["resume=run", "callbacks=default"])
    assert recorded[2] in use_folder(["resume=run", "callbacks=early_stopping"])
    assert "max_epochs=3" not in use_folder(["resume=run", "trainer.max_epochs=5"])


def test_a_group_that_is_left_out(run):
    schedule = "torch.optim.lr_scheduler.ExponentialLR"
    recorded = ["~scheduler", f"+scheduler._target_={schedule}", "+scheduler.gamma=0.9", "~recipe"]
    (run / "run.json").write_text(json.dumps({"overrides": recorded}))
    with pytest.raises(
        ValueError, match="cannot change scheduler._target_ .*ExponentialLR -> None"
    ):
        use_folder(["resume=run", "~scheduler"])
    with pytest.raises(ValueError, match=r"with other options \(\+lr=1\)"):
        use_folder([*recorded, "lr=1", "hydra.run.dir=run"])


def test_another_model_is_named_without_its_options():
    with pytest.raises(ValueError, match="cannot change model._target_ .*VSRN -> .*SCAN: ") as info:
        check_changes(["model=vsrn"], ["model=scan"])
    assert "direction" not in str(info.value) and "num_gcn" not in str(info.value)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("max_epochs=99", "max_epochs 6 -> 99"),
        ("lr=1.0e-5", "lr 0.002 -> 1e-05"),
        ("step_size=3", "step_size 4 -> 3"),
        ("optimizer.lr=1.0e-5", "optimizer.lr 0.002 -> 1e-05"),
        ("scheduler.step_size=3", "scheduler.step_size"),
        ("data.batch_size=7", "data.batch_size"),
        ("loss.margin=0.1", "loss.margin 0.2 -> 0.1"),
        ("trainer.max_epochs=3", "trainer.max_epochs"),
    ],
)
def test_what_a_resumed_run_can_change_is_said(option, said, capsys):
    before = SMALL[:2]
    check_changes(before, [*before, option])
    text = capsys.readouterr().out
    assert text.startswith("warning: resuming with other options than before: ") and said in text
    check_changes(before, before)
    assert capsys.readouterr().out == ""


def test_a_transformer_may_have_moved():
    """Its weights and words are in the checkpoint."""
    before = ["model=vsepp", "text=bert", "model.text.path=there"]
    check_changes(before, [*before[:2], "model.text.path=here"])


@pytest.mark.parametrize("name", ["results.json", "csv/metrics.csv", "ranks.npz", "made.json"])
def test_results_of_others_are_not_replaced(name, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    for more in ([], ["overwrite=true"]):
        with pytest.raises(TakenError, match=f"holds {name} but no run.json"):
            use_folder([f"hydra.run.dir={tmp_path}", *more])
    assert path.read_text() == "mine" and len(files(tmp_path)) in (1, 2)


def test_the_configuration_of_another_program_is_not_replaced(tmp_path):
    """Hydra replaces `.hydra` before a command begins."""
    (tmp_path / ".hydra").mkdir()
    given = [f"hydra.run.dir={tmp_path}"]
    assert use_folder(given) == given
    for content in ("mine", "hydra: {job: {name: my_program}}"):
        (tmp_path / ".hydra/hydra.yaml").write_text(content)
        with pytest.raises(TakenError, match="was not written by a command of itm"):
            use_folder(given)
        with pytest.raises(TakenError, match="was not written by a command of itm"):
            check_result_folder(given, "itm.evaluate", ())
    for own in ("hydra: {job: {name: train}}", "hydra:\n  run:\n    di", ""):  # a full disk cuts it
        (tmp_path / ".hydra/hydra.yaml").write_text(own)
        assert use_folder(given) == given


def test_tables_of_others_are_not_replaced_by_a_sweep(tmp_path):
    given = ["-m", "seed=0,1", f"hydra.sweep.dir={tmp_path}"]
    (tmp_path / "summary.csv").write_text("mine")
    for content in (None, "mine", "hydra: {job: {name: my_program}}"):
        if content:
            (tmp_path / "multirun.yaml").write_text(content)
        with pytest.raises(TakenError, match=r"holds .*summary.csv, which no sweep of itm.train"):
            use_folder([*given, "overwrite=true"])
    (tmp_path / "multirun.yaml").write_text("hydra: {job: {name: train}}")
    assert use_folder(given) == given
