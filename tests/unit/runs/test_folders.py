"""Which folders count as runs: all that hold results, once each, and nothing that was replaced."""

import json
import shutil

import pytest
from made_runs import write_evaluation, write_run

from itm.app import replaced
from itm.runs.folders import SKIPPED, run_folders
from itm.runs.groups import group_seeds
from itm.runs.history import find_runs
from itm.runs.record import write_json


def test_results_without_settings_are_named(tmp_path):
    write_run(tmp_path / "good")
    write_run(tmp_path / "lost")
    (tmp_path / "lost/run.json").unlink()
    for name, content in {"report": "[]", "other": '{"accuracy": 1}', "torn": "{"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(content)
    (tmp_path / "report/results.csv").write_text("")
    shutil.copytree(tmp_path / "lost", tmp_path / "saved")
    (tmp_path / "saved/model.safetensors").write_text("")
    runs, unfinished = find_runs([tmp_path])
    assert [run.folder.name for run in runs] == ["good"]
    reasons = {folder.name: reason for folder, reason in unfinished}
    assert reasons.keys() == {"lost", "torn"} and reasons["torn"].startswith("damaged: ")
    assert "its settings are lost" in reasons["lost"] and "settings.yaml" in reasons["lost"]


def test_links_are_followed_and_loops_end(tmp_path):
    write_run(tmp_path / "store/real")
    write_run(tmp_path / "runs/own", seed=1)
    (tmp_path / "runs/linked").symlink_to(tmp_path / "store")
    (tmp_path / "store/again").symlink_to(tmp_path / "runs")
    (tmp_path / "runs/own/up").symlink_to(tmp_path)
    (tmp_path / "runs/own/here").symlink_to(".")
    found = [x.relative_to(tmp_path).as_posix() for x in run_folders(tmp_path / "runs")]
    assert found == ["runs/linked/real", "runs/own"]
    assert len(find_runs([tmp_path / "runs"])[0]) == 2


def test_a_run_that_is_being_replaced_is_not_shown(tmp_path):
    assert SKIPPED == (replaced.ASIDE, replaced.DELETED)
    write_run(tmp_path / "good")
    for name in SKIPPED:
        write_run(tmp_path / "new" / name)
    write_json(tmp_path / "new/run.json", {"command": "itm.train"})
    runs, unfinished = find_runs([tmp_path])
    assert [run.folder.name for run in runs] == ["good"]
    assert unfinished == [(tmp_path / "new", "not finished")]


def test_an_evaluation_that_is_found_twice_counts_once(tmp_path):
    """Its checkpoint is in no run, so that only its folder and row tell it apart."""
    write_evaluation(tmp_path / "ov/ev", tmp_path / "file.ckpt", rsum=10.0)
    runs, _ = find_runs([tmp_path / "ov", tmp_path / "ov/ev"])
    assert [run.rsum for run in runs] == [10.0]


def test_a_run_that_was_resumed_with_other_options_is_a_setting_of_its_own(tmp_path):
    changes = ["lr 0.1 -> 1e-05 at step 4"]
    for seed in range(4):
        write_run(tmp_path / str(seed), seed, changes=changes if seed % 2 else [])
    groups = group_seeds(find_runs([tmp_path])[0])
    seeds = {name: [run.seed for run in group] for name, group in groups.items()}
    assert sorted(seeds.values()) == [[0, 2], [1, 3]]
    assert [name for name, group in seeds.items() if 1 in group] == [f"scan changes={changes[0]}"]
    alone = group_seeds(find_runs([tmp_path / "1"])[0])
    assert [*alone] == [f"scan changes={changes[0]}"]


@pytest.mark.parametrize("parts", [["val"], ["test"], ["val", "test"]])
def test_results_on_a_part_of_a_split_say_so(parts, tmp_path):
    write_run(tmp_path / "0", partial=parts)
    (run,), _ = find_runs([tmp_path])
    assert run.validation == 100 and run.choice == (None if "val" in parts else 100)
    assert run.test.endswith("full (part)") == ("test" in parts)
    results = json.loads((tmp_path / "0/results.json").read_text())
    assert results["partial"] == parts
