"""Results replace only results of the same command, as a whole, and only when asked to."""

import json
import os
from pathlib import Path

import pytest

from itm.runs.outputs import check_file, check_files, check_folder, maker, result_folder
from itm.utils.errors import InUseError, TakenError

PATTERNS = ("report.json", "ranks_*.npz")


def write(folder, names, overwrite=False, command="itm.evaluate"):
    with result_folder(folder, command, PATTERNS, overwrite) as place:
        for name in names:
            (place / name).write_text(f"{name} of {names}")


def content(folder):
    return {p.name: p.read_text() for p in Path(folder).iterdir() if p.name != "made.json"}


def test_a_result_is_replaced_as_a_whole(tmp_path):
    out = tmp_path / "out"
    write(out, ["report.json", "ranks_0.npz", "ranks_1.npz"])
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds a result of itm.evaluate already.*overwrite=true"):
        write(out, ["report.json"])
    assert len(content(out)) == 4
    write(out, ["report.json"], overwrite=True)
    assert content(out) == {"report.json": "report.json of ['report.json']", "notes.txt": "mine"}


def test_an_error_leaves_the_earlier_result(tmp_path):
    write(tmp_path, ["report.json", "ranks_0.npz"])
    before = content(tmp_path)
    with (
        pytest.raises(RuntimeError),
        result_folder(tmp_path, "itm.evaluate", PATTERNS, True) as place,
    ):
        (place / "report.json").write_text("new")
        raise RuntimeError
    assert content(tmp_path) == before and len(list(tmp_path.iterdir())) == 3


def test_files_and_results_of_others_are_left_alone(tmp_path):
    (tmp_path / "report.json").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="report.json exists and is not listed in made.json"):
            write(tmp_path, ["report.json"], overwrite)
    (tmp_path / "report.json").unlink()
    write(tmp_path, ["report.json"], command="itm.report")
    with pytest.raises(ValueError, match="holds a result of itm.report; give itm.evaluate another"):
        write(tmp_path, ["report.json"], overwrite=True)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ValueError, match="holds a run of itm.train; give itm.report another"):
        write(tmp_path, ["report.json"], overwrite=True, command="itm.report")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        check_folder(tmp_path / "file", "itm.evaluate", PATTERNS)


def test_damage_is_noticed(tmp_path):
    write(tmp_path, ["report.json"])
    check_files(tmp_path, PATTERNS)
    (tmp_path / "report.json").write_text("other")
    with pytest.raises(ValueError, match="report.json is damaged"):
        check_files(tmp_path, PATTERNS)
    for bad in ("{", "[]", '{"command": "x", "files": {"../a": "0"}}', '{"files": {}}'):
        (tmp_path / "made.json").write_text(bad)
        with pytest.raises(ValueError, match="made.json is damaged"):
            check_folder(tmp_path, "itm.evaluate", PATTERNS, True)


def test_a_file_is_replaced_only_if_the_command_made_it(tmp_path):
    path = tmp_path / "page.html"
    check_file(path, "itm.search")
    path.write_text(f"<meta content='{maker('itm.search')}'>")
    with pytest.raises(ValueError, match="exists: replace it with overwrite=true"):
        check_file(path, "itm.search")
    check_file(path, "itm.search", overwrite=True)
    with pytest.raises(ValueError, match="was not made by itm.explain"):
        check_file(path, "itm.explain", overwrite=True)
    with pytest.raises(ValueError, match="is a folder"):
        check_file(tmp_path, "itm.search", overwrite=True)


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_pictures_name_the_command(tmp_path, kind):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    from itm.visual.figure_files import save

    save(Figure(), tmp_path / f"a.{kind}", command="itm.explain")
    check_file(tmp_path / f"a.{kind}", "itm.explain", overwrite=True)
    save(Figure(), tmp_path / f"b.{kind}")
    with pytest.raises(ValueError, match="was not made by itm.explain"):
        check_file(tmp_path / f"b.{kind}", "itm.explain", overwrite=True)


def test_the_manifest_lists_the_files(tmp_path):
    write(tmp_path, ["report.json"])
    record = json.loads((tmp_path / "made.json").read_text())
    assert record["command"] == "itm.evaluate" and set(record["files"]) == {
        "report.json",
        "made.json",
    }


def test_a_pipe_in_the_place_of_a_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "page.html")
    with pytest.raises(TakenError, match="is a pipe or device"):
        check_file(tmp_path / "page.html", "itm.search", overwrite=True)


def test_a_taken_place_is_one_kind_of_error():
    """Code that catches the error of a file that exists, or of a wrong value, catches it."""
    assert issubclass(TakenError, FileExistsError) and issubclass(TakenError, ValueError)
    assert issubclass(InUseError, BlockingIOError) and issubclass(InUseError, ValueError)
    assert str(TakenError("a is taken")) == "a is taken"
