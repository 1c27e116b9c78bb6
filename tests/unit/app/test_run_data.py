"""Commands take data, root and split of the run whose checkpoint they are given."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from itm.app.quoting import quote
from itm.app.run_data import NOTES, check_result_folder, tell_run_data, use_run_data
from itm.runs.outputs import result_folder
from itm.runs.plain_files import run_of
from itm.utils.errors import TakenError


def make_run(folder, choice="f30k", root="data", cwd=None, **data):
    """The record that itm.train leaves, and an empty best checkpoint."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints/best.ckpt").touch()
    (folder / "run.json").write_text("{}")
    node = {"root": root, "test": "test", "protocol": "full", "limit": None, **data}
    OmegaConf.save(OmegaConf.create({"data": node}), folder / ".hydra/config.yaml")
    runtime = {"choices": {"data": choice}, "cwd": str(cwd or folder.parent)}
    record = OmegaConf.create({"hydra": {"runtime": runtime}})
    OmegaConf.save(record, folder / ".hydra/hydra.yaml")
    return folder


def quoted(arguments):
    """What the entry point does with a command line, before and after."""
    return [quote(argument) for argument in arguments]


def used(*arguments):
    return use_run_data(quoted(arguments))


@pytest.fixture
def run(tmp_path):
    (tmp_path / "data").mkdir()
    return make_run(tmp_path / "run")


def test_data_root_and_split_are_those_of_the_run(run, tmp_path, capsys):
    expected = ["data=f30k", f"data.root={tmp_path}/data", "data.test=test", "data.protocol=full"]
    assert used(f"checkpoint={run}", "top=3") == [*expected, f"checkpoint={run}", "top=3"]
    assert not capsys.readouterr().out  # the command may still be refused
    tell_run_data()
    assert capsys.readouterr().out == f"data of the run: {' '.join(expected)}\n"
    assert not NOTES
    file = run / "checkpoints/best.ckpt"
    assert used(f"checkpoint={file}")[:4] == expected


def test_the_command_line_wins(run, tmp_path):
    other = used(f"checkpoint={run}", "data=coco", "data.root=x")
    assert other == [f"checkpoint={run}", "data=coco", "data.root=x"]
    found = used("data.root=mine", f"checkpoint={run}", "data.protocol=coco_1k")
    assert found == ["data.root=mine", "data=f30k", "data.test=test", f"checkpoint={run}",
                     "data.protocol=coco_1k"]  # fmt: skip
    found = used(f"checkpoint={run}", "data.split=dev", "data=f30k")
    assert found[:2] == [f"data.root={tmp_path}/data", "data.protocol=full"]


def test_the_bank_of_a_new_ranking_is_a_split_of_the_run(tmp_path):
    (tmp_path / "data").mkdir()
    run = make_run(tmp_path / "run", val="val", train="part")
    assert not any("data.val" in x or "data.train" in x for x in used(f"checkpoint={run}"))
    assert "data.val=val" in used(f"checkpoint={run}", "rerank_bank=val")
    assert "data.train=part" in used(f"checkpoint={run}", "rerank_bank=train")


def test_a_report_goes_beside_the_record_of_another_program(tmp_path):
    """With out=, Hydra writes its own record into another folder."""
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/hydra.yaml").write_text("hydra: {job: {name: my_program}}")
    check_result_folder([f"out={tmp_path}"], "itm.report", (), "out")
    with pytest.raises(TakenError, match="was not written by a command of itm"):
        check_result_folder(["out=x", f"hydra.run.dir={tmp_path}"], "itm.report", (), "out")


def test_phrases_are_those_of_the_run(tmp_path):
    """Of a run in another folder, too; a path to code is not taken."""
    (tmp_path / "data").mkdir()
    (tmp_path / "entities").mkdir()
    source = {"_target_": "os.system", "path": "entities"}
    run = make_run(tmp_path / "run", "phrases", phrases=source)
    found = used(f"checkpoint={run}")
    assert f"data.phrases.path={tmp_path}/entities" in found
    assert not any("os.system" in option for option in found)
    assert "data.phrases.path=mine" in used(f"checkpoint={run}", "data.phrases.path=mine")
    assert not any("entities" in x for x in used(f"checkpoint={run}", "data=scenes"))
    beside = make_run(tmp_path / "other", "phrases", phrases={"path": None})
    assert not any("phrases.path" in option for option in used(f"checkpoint={beside}"))


def test_generated_data_is_described_by_its_numbers(tmp_path):
    root = {"_target_": "itm.scenes.write_scenes", "images": [40, 6, 6], "noise": 1.5, "seed": 0}
    run = make_run(tmp_path / "run", "scenes", root, limit=64)
    assert used(f"checkpoint={run}")[:6] == [
        "data=scenes", "data.root.images=[40,6,6]", "data.root.noise=1.5", "data.root.seed=0",
        "data.test=test", "data.protocol=full",
    ]  # fmt: skip
    assert "data.limit=64" in used(f"checkpoint={run}")
    assert NOTES[-1] == (  # only the numbers that differ from conf/data/scenes.yaml
        "data of the run: data=scenes data.root.images=[40,6,6] data.test=test "
        "data.protocol=full data.limit=64"
    )


@pytest.mark.parametrize(
    "root",
    [
        {"_target_": "os.system", "command": "touch owned"},
        {"_target_": "itm.scenes.write_scenes", "images": "${oc.env:HOME}", "root": "/etc"},
        "${oc.env:HOME}",
    ],
)
def test_a_record_runs_nothing_and_resolves_nothing(tmp_path, root):
    run = make_run(tmp_path / "run", "../f30k", root, test="x,y=1", protocol="${oc.env:HOME}")
    assert used(f"checkpoint={run}") == [f"checkpoint={run}"]


def test_a_root_with_a_reference_is_read_from_the_results(tmp_path):
    run = make_run(tmp_path / "run", root="${oc.env:DATA}/f30k")
    (run / "results.json").write_text(json.dumps({"root": str(tmp_path), "split": "test"}))
    assert f"data.root={tmp_path}" in used(f"checkpoint={run}")


def test_data_that_is_gone_is_named(tmp_path):
    run = make_run(tmp_path / "run", root="/nowhere/data")
    with pytest.raises(ValueError, match="tested on data.root=/nowhere/data, which is not here"):
        used(f"checkpoint={run}")
    assert "data.root=x" in used(f"checkpoint={run}", "data.root=x")


def test_an_ensemble_needs_one_data_set(run, tmp_path):
    (tmp_path / "other").mkdir()
    second = make_run(tmp_path / "second", root="other")
    with pytest.raises(ValueError, match="tested on different data.*give data= and data.root="):
        used(f"checkpoint=[{run},{second}]")
    both = used(f"checkpoint=[{run},{second}]", "data.root=x")
    assert f"checkpoint=[{run},{second}]" in both and "data=f30k" in both


def test_last_stands_in_for_best(run, capsys):
    best, last = run / "checkpoints/best.ckpt", run / "checkpoints/last.ckpt"
    best.rename(last)
    assert f"checkpoint={last}" in used(f"checkpoint={run}")
    tell_run_data()
    assert f"has no checkpoints/best.ckpt (no validation yet); using {last}" in (
        capsys.readouterr().out
    )
    assert f"checkpoint=[{last}]" in used(f"checkpoint=[{run}]")


def test_any_name_of_a_folder(tmp_path):
    data = tmp_path / "my data, (1) = [x]"
    data.mkdir()
    run = make_run(tmp_path / "run '1', {a}", root=data.name)
    (run / "checkpoints/best.ckpt").rename(run / "checkpoints/last.ckpt")
    found = used(f"checkpoint={run}", "query=it's, ${x}")
    again = quoted(found)  # as the entry point does
    assert f"data.root='{data}'" in again and "query='it\\'s, \\${x}'" in again
    assert again == quoted(again[:-1] + ["query=it's, ${x}"])


@pytest.mark.parametrize("text", ["a, b", "''", "'quoted'", "${x}", "\\${x}", "a\\", "", "null"])
def test_text_is_quoted_once(text):
    once = quoted([f"query={text}"])
    if text != "''":  # an empty text that the user quoted
        assert quoted(use_run_data(once)) == once


def test_saved_folders_know_their_data_if_it_is_here(tmp_path):
    saved = tmp_path / "saved"
    saved.mkdir()
    assert used(f"checkpoint={saved}") == [f"checkpoint={saved}"]
    (saved / "results.json").write_text(json.dumps({"root": str(tmp_path), "split": "testall"}))
    assert used(f"checkpoint={saved}")[:2] == [f"data.root={tmp_path}", "data.test=testall"]
    facts = {"root": str(tmp_path), "split": "testall", "protocol": "coco_1k"}
    (saved / "results.json").write_text(json.dumps(facts))
    assert "data.protocol=coco_1k" in used(f"checkpoint={saved}")
    (saved / "results.json").write_text(json.dumps({"root": "nowhere", "split": "test"}))
    with pytest.raises(ValueError, match="data.root=nowhere, which is not here: give data.root="):
        used(f"checkpoint={saved}")
    assert "data.root=here" in used(f"checkpoint={saved}", "data.root=here")
    (saved / "results.json").write_text(
        json.dumps({"root": "scenes-0123456789ab", "split": "test"})
    )
    assert used(f"checkpoint={saved}") == [f"checkpoint={saved}"]  # of generated scenes


def test_a_run_and_a_saved_folder_of_its_data_are_an_ensemble(run, tmp_path):
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / "results.json").write_text(json.dumps({"root": "data", "split": "test"}))
    found = used(f"checkpoint=[{run},{saved}]")
    assert f"data.root={tmp_path / 'data'}" in found and "data.root=data" not in found


def test_questions_are_left_alone(run):
    assert used(f"checkpoint={run}", "--cfg", "job") == [f"checkpoint={run}", "--cfg", "job"]
    assert used("similarity=a.npy") == ["similarity=a.npy"]


def test_a_used_folder_is_refused_before_hydra_writes(tmp_path):
    with result_folder(tmp_path, "itm.evaluate", ("report.json",)) as place:
        (place / "report.json").write_text("{}")
    here = [f"hydra.run.dir={tmp_path}"]
    with pytest.raises(ValueError, match="holds a result of itm.evaluate already"):
        check_result_folder(here, "itm.evaluate", ("report.json",))
    check_result_folder([*here, "overwrite=true"], "itm.evaluate", ("report.json",))
    check_result_folder(["hydra.run.dir=x/${now:%Y}"], "itm.evaluate", ("report.json",))
    with pytest.raises(ValueError, match=r"holds a result of itm\.evaluate; give itm\.report"):
        check_result_folder([f"out={tmp_path}"], "itm.report", ("report.md",), "out")


def test_a_file_in_the_working_folder_belongs_to_its_run(run, monkeypatch):
    (run / "run.json").write_text("{}")
    checkpoints = run / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    monkeypatch.chdir(checkpoints)
    assert run_of(Path("best.ckpt")).samefile(run)
