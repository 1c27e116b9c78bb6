"""Folders that commands write: whole, never over files of others, whatever step a kill hits."""

import contextlib
import json
import multiprocessing
import os
import shutil
from pathlib import Path

import pytest

from itm.features import data_folder
from itm.features.data_folder import (
    building,
    check_target,
    is_complete,
    place_files,
    read_record,
)
from itm.utils import folders
from itm.utils.manifest import digest

RECORD = "extract.json"


def build(folder, text, overwrite=False, resume=False):
    with building(folder, RECORD, {"text": text}, overwrite, resume) as work:
        (work / "a.txt").write_text(text)
        (work / "b.txt").write_text(text)


def content(folder):
    """The texts of a folder and of what stands beside it."""
    texts = {p.read_text() for p in folder.glob("*.txt")}
    return texts, sorted(p.name for p in folder.parent.iterdir())


class Killed(BaseException):
    pass


@contextlib.contextmanager
def killed_at(step, monkeypatch):
    """End at the n-th change of the file system, and make no further one, as a kill does."""
    left = [step]

    def dying(real):
        def call(*arguments, **options):
            if left[0] <= 0:
                raise Killed
            left[0] -= 1
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for owner, names in (
            (Path, ("rename", "replace", "rmdir", "unlink", "mkdir", "write_text")),
            (shutil, ("rmtree",)),
            (os, ("fsync", "rename", "replace", "unlink", "rmdir", "mkdir")),
        ):
            for name in names:
                real = (lambda handle: None) if name == "fsync" else getattr(owner, name)
                patch.setattr(owner, name, dying(real))
        with contextlib.suppress(Killed):
            yield


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("begin", ["nothing", "an empty folder", "an old result"])
def test_a_kill_at_any_step_leaves_the_old_or_the_new(tmp_path, monkeypatch, begin, resume):
    folder, step, done = tmp_path / "out", 0, False
    while not done:
        for path in tmp_path.iterdir():
            shutil.rmtree(path)
        if begin != "nothing":
            folder.mkdir()
        if begin == "an old result":
            build(folder, "old")
        done = False
        with killed_at(step, monkeypatch):
            build(folder, "new", overwrite=True, resume=resume)
            done = True
        texts, _ = content(folder)
        assert texts in ({"old"}, {"new"}, set()), (step, texts)
        if texts:
            assert is_complete(folder, RECORD, {"text": texts.pop()})
        with contextlib.suppress(FileNotFoundError):
            check_target(folder, RECORD, {"text": "new"}, overwrite=True)
        if begin == "an old result":  # a look at the folder brings the old one back
            assert content(folder)[0], step
        build(folder, "new", overwrite=True, resume=resume)
        assert content(folder) == ({"new"}, ["out"]), step
        step += 1
    assert step > 8


@pytest.mark.parametrize("begin", ["nothing", "an old result"])
def test_without_an_exchange_a_kill_leaves_the_old_or_the_new_or_what_is_refused(
    tmp_path, monkeypatch, begin
):
    monkeypatch.setattr(folders, "_exchange", lambda *_: False)
    folder, step, done, refused = tmp_path / "out", 0, False, 0
    while not done:
        for path in tmp_path.iterdir():
            shutil.rmtree(path)
        if begin == "an old result":
            build(folder, "old")
        with killed_at(step, monkeypatch):
            build(folder, "new", overwrite=True)
            done = True
        texts, _ = content(folder)
        try:
            folders.check_unmarked(folder)
        except ValueError:
            refused += 1
            assert not is_complete(folder, RECORD, {"text": "old"})
        else:
            assert texts in ({"old"}, {"new"}, set()), (step, texts)
        build(folder, "new", overwrite=True)
        assert content(folder) == ({"new"}, ["out"]), step
        assert is_complete(folder, RECORD, {"text": "new"})
        step += 1
    assert refused > 2


def test_a_folder_in_use_or_on_another_disk_is_replaced(tmp_path, monkeypatch):
    folder = tmp_path / "out"
    build(folder, "old")
    monkeypatch.chdir(folder)
    build(folder, "new", overwrite=True)
    assert content(folder) == ({"new"}, ["out"])
    monkeypatch.setattr(data_folder, "beside", lambda f: f / f.name)
    monkeypatch.setattr(folders, "beside", lambda f: f / f.name)
    build(folder, "newer", overwrite=True, resume=True)
    assert content(folder) == ({"newer"}, ["out"])
    assert {p.name for p in folder.iterdir()} == {"a.txt", "b.txt", RECORD}


def test_files_of_others_are_never_replaced(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "a.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"did not make, such as a\.txt"):
            build(folder, "new", overwrite)
    assert content(folder) == ({"mine"}, ["out"])
    (folder / "a.txt").unlink()
    (folder / "pictures").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="did not make, such as pictures"):
        build(folder, "new")
    assert (folder / "pictures").readlink() == tmp_path
    (folder / "pictures").unlink()
    build(folder, "old")
    with pytest.raises(ValueError, match="was made with other text; .*overwrite=true"):
        build(folder, "new")
    with pytest.raises(ValueError, match="was made with these options; .*overwrite=true"):
        build(folder, "old")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"did not make, such as notes\.txt"):
        build(folder, "new", overwrite=True)
    (folder / "notes.txt").unlink()
    (folder / "a.txt").write_text("corrected")
    with pytest.raises(ValueError, match=r"changed since, such as a\.txt"):
        build(folder, "new", overwrite=True)
    with pytest.raises(ValueError, match=r"a\.txt is missing, damaged or was edited"):
        is_complete(folder, RECORD, {"text": "old"})
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="file is a file; expected a folder"):
        build(tmp_path / "file", "new", overwrite=True)
    (tmp_path / "new.unfinished").mkdir()
    (tmp_path / "new.unfinished" / "a.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"new\.unfinished holds files of others"):
        build(tmp_path / "new", "new")
    assert (tmp_path / "new.unfinished" / "a.txt").read_text() == "mine"


def test_an_error_leaves_what_can_be_continued_and_nothing_else(tmp_path):
    for resume in (False, True):
        with (
            pytest.raises(OSError, match="full"),
            building(tmp_path / "out", RECORD, {"text": "a"}, resume=resume) as work,
        ):
            (work / "a.txt").write_text("half")
            raise OSError("full")
        assert [p.name for p in tmp_path.iterdir()] == ["out.unfinished"] * resume
    with building(tmp_path / "out", RECORD, {"text": "a"}, resume=True) as work:
        assert (work / "a.txt").read_text() == "half"
        with pytest.raises(BlockingIOError, match="is being written by another process"):
            build(tmp_path / "out", "a", resume=True)
    assert content(tmp_path / "out") == ({"half"}, ["out"])


def test_unfinished_work_of_other_settings_is_kept(tmp_path):
    with (
        contextlib.suppress(Killed),
        building(tmp_path / "out", RECORD, {"text": "a"}, resume=True) as work,
    ):
        (work / "c.txt").write_text("hours of work")
        raise Killed
    with pytest.raises(ValueError, match="was begun with other text"):
        build(tmp_path / "out", "b", resume=True)
    assert (work / "c.txt").read_text() == "hours of work"
    build(tmp_path / "out", "b", overwrite=True, resume=True)
    assert content(tmp_path / "out") == ({"b"}, ["out"])


def test_an_unfinished_folder_without_content_hinders_nobody(tmp_path):
    """Neither an error nor a kill before the first file binds the folder to its settings."""
    for error in (OSError, Killed):
        with (
            contextlib.suppress(error),
            building(tmp_path / "out", RECORD, {"text": "a"}, resume=True),
        ):
            raise error
        assert not list(tmp_path.iterdir())
    data_folder.write_record(tmp_path, RECORD, {})
    (tmp_path / "out.unfinished").mkdir()
    data_folder.write_record(tmp_path / "out.unfinished", RECORD, {"settings": {"text": "a"}})
    build(tmp_path / "out", "b", resume=True)
    assert content(tmp_path / "out")[0] == {"b"}


def hold(folder, ready, die):
    with building(folder, RECORD, {}, resume=True):
        ready.set()
        die.wait(60)
        os._exit(9)  # as by a kill


def test_a_lock_dies_with_its_process(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, die = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path / "out", ready, die))
    process.start()
    assert ready.wait(60)
    with pytest.raises(BlockingIOError, match="is being written by another process"):
        build(tmp_path / "out", "a", resume=True)
    die.set()
    process.join(60)
    assert process.exitcode == 9
    build(tmp_path / "out", "a", resume=True)
    assert content(tmp_path / "out") == ({"a"}, ["out"])


def placed(tmp_path, text, settings, overwrite=False):
    work, folder = tmp_path / "work", tmp_path / "data"
    for path in (work, folder):
        path.mkdir(exist_ok=True)
    (work / "vocab.json").write_text(text)
    place_files(work, folder, "prepare.json", settings, overwrite)
    return (folder / "vocab.json").read_text()


def test_single_files_go_into_a_folder_of_others(tmp_path):
    assert placed(tmp_path, "a", {"n": 1}) == "a"
    assert placed(tmp_path, "a", {"n": 1}) == "a"  # the same again
    with pytest.raises(ValueError, match="other captions or options; give overwrite=true"):
        placed(tmp_path, "b", {"n": 2})
    assert placed(tmp_path, "b", {"n": 2}, overwrite=True) == "b"
    (tmp_path / "data" / "vocab.json").write_text("published")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"vocab\.json was not made by this command"):
            placed(tmp_path, "c", {"n": 2}, overwrite)
    assert (tmp_path / "data" / "vocab.json").read_text() == "published"
    assert placed(tmp_path, "published", {"n": 3}) == "published"  # equal bytes lose nothing


def test_placing_goes_on_after_a_kill(tmp_path, monkeypatch):
    for step in range(12):
        for path in tmp_path.iterdir():
            shutil.rmtree(path)
        placed(tmp_path, "old", {"n": 1})
        with killed_at(step, monkeypatch):
            placed(tmp_path, "new", {"n": 2}, overwrite=True)
        assert (tmp_path / "data" / "vocab.json").read_text() in ("old", "new")
        assert placed(tmp_path, "new", {"n": 2}, overwrite=True) == "new"
        assert read_record(tmp_path / "data", "prepare.json")["derived"]["vocab.json"]["settings"]


def test_damaged_records_are_named(tmp_path):
    (tmp_path / RECORD).write_text("{")
    with pytest.raises(ValueError, match=r"extract\.json is not a JSON file"):
        read_record(tmp_path, RECORD)
    (tmp_path / RECORD).write_text("[]")
    with pytest.raises(ValueError, match="expected a JSON object"):
        read_record(tmp_path, RECORD)
    (tmp_path / RECORD).write_text(json.dumps({"settings": {}, "splits": {}}))
    with pytest.raises(ValueError, match="written by an earlier version"):
        check_target(tmp_path, RECORD, {}, overwrite=True)


def test_digests_change_with_names_and_contents(tmp_path):
    def of(**files):
        folder = tmp_path / "d"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
        return digest(folder)

    found = [of(a="x", b="y"), of(a="y", b="x"), of(a="x"), of(c="x", b="y"), of(a="xy", b="")]
    assert len(set(found)) == 5 and of(a="x", b="y") == found[0] and digest(None) is None
