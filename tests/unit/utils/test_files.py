"""Files and folders are replaced as a whole: errors, kills and other writers at every step."""

import builtins
import errno
import json
import os
import shutil
import subprocess
import sys
import threading

import pytest

from itm.utils import folders
from itm.utils.files import replacing, unfinished_beside, unfinished_name, write_text
from itm.utils.folders import read_whole, replacing_folder
from itm.utils.manifest import check_checksums, read_manifest, write_manifest

CALLS = ("open", "replace", "rename", "fsync", "mkdir", "rmdir", "unlink", "chmod")


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """Bringing bytes to disk takes most of the time; these tests count the calls."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def own(path):
    return json.loads(path.read_text())["kind"] == "test"


def put(folder, text, names=("a", "part/b"), fail=False):
    """Write a result of three files."""
    with replacing_folder(folder, "last.json", ["a", "part/b"], own) as place:
        for name in names:
            write_text(place / name, text)
        if fail:
            raise OSError("disk full")
        write_manifest(place / "last.json", {"kind": "test", "text": text}, ["a", "part/b"])


def get(folder):
    """Read the result; all its files must belong together."""

    def read():
        facts, files = read_manifest(folder / "last.json")
        found = {name: (folder / name).read_text() for name in files}
        check_checksums(folder, files)
        assert set(found.values()) <= {facts["text"]}
        return facts["text"]

    return read_whole(folder / "last.json", read)


def failing_at(number, fail):
    """Replace the calls that change files by ones of which the n-th fails.

    Returns:
        The calls made, and a function that puts the originals back.
    """
    made = []

    def counted(original):
        def call(*args, **kwargs):
            made.append(original)
            return fail() if len(made) == number else original(*args, **kwargs)

        return call

    places = [(os, name) for name in CALLS] + [(builtins, "open"), (folders, "_exchange")]
    originals = [(place, name, getattr(place, name)) for place, name in places]
    for place, name, original in originals:
        setattr(place, name, counted(original))

    def restore():
        for place, name, original in originals:
            setattr(place, name, original)

    return made, restore


def killed_at(number, work):
    """Do the work in another process, which ends without clean-up at its n-th call.

    Returns:
        Whether it was killed.
    """
    process = os.fork()
    if process == 0:
        failing_at(number, lambda: os._exit(9))
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert code in (0, 9)
    return code == 9


def failed_at(number, work):
    """Do the work; its n-th call finds a full disk.

    Returns:
        Whether there were so many calls.
    """

    def fail():
        raise OSError(errno.ENOSPC, "No space left on device")

    made, restore = failing_at(number, fail)
    try:
        work()
    except OSError as error:
        assert error.errno == errno.ENOSPC
    finally:
        restore()
    return len(made) >= number


STOPS = [pytest.param(killed_at, marks=pytest.mark.skipif(os.name != "posix", reason="fork"))]
STOPS += [failed_at]


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("before", ["nothing", "result", "result and notes"])
def test_a_stop_between_any_two_calls_leaves_the_old_or_the_new_result(stop, before, tmp_path):
    folder = tmp_path / "x"
    for number in range(1, 200):
        shutil.rmtree(folder, ignore_errors=True)
        if before != "nothing":
            put(folder, "old")
        if before.endswith("notes"):
            (folder / "notes").write_text("of the user")
        stopped = stop(number, lambda: put(folder, "new", names=["a"]))
        try:
            found = get(folder)
        except FileNotFoundError:  # incomplete: readers refuse it
            assert stopped and before != "result"
            found = "old"
        assert found in (("old", "new") if stopped else ("new",))
        if before.endswith("notes"):
            assert (folder / "notes").read_text() == "of the user"
        put(folder, "again")  # nothing of the attempt is in the way
        assert get(folder) == "again"
        assert [path.name for path in tmp_path.iterdir()] == ["x"]
        assert {path.name for path in folder.rglob("*")} - {"notes"} == {
            "a",
            "part",
            "b",
            "last.json",
        }
        if not stopped:
            break
    assert number > 20


@pytest.mark.parametrize("stop", STOPS)
def test_a_stop_leaves_the_old_or_the_new_file(stop, tmp_path):
    path = tmp_path / "f"
    for number in range(1, 100):
        path.write_text("old")
        stopped = stop(number, lambda: write_text(path, "new"))
        assert path.read_text() in (("old", "new") if stopped else ("new",))
        write_text(path, "again")
        assert [file.name for file in tmp_path.iterdir()] == ["f"]
        if not stopped:
            break
    assert number > 4


def test_a_result_is_replaced_as_a_whole(tmp_path):
    folder = tmp_path / "x"
    put(folder, "one")
    folder.chmod(0o750)
    with pytest.raises(OSError, match="disk full"):
        put(folder, "two", fail=True)
    assert get(folder) == "one"
    put(folder, "two", names=["a"])
    assert get(folder) == "two" and not (folder / "part/b").exists()
    assert folder.stat().st_mode & 0o777 == 0o750
    with pytest.raises(OSError, match="disk full"):
        put(tmp_path / "y", "one", fail=True)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("where", ["current folder", "no exchange"])
def test_files_are_moved_if_folders_cannot_be_exchanged(where, tmp_path, monkeypatch):
    put(tmp_path / "x", "one")
    if where == "current folder":
        monkeypatch.chdir(tmp_path / "x")
    else:
        monkeypatch.setattr(folders, "_exchange", lambda *_: False)
    number = (tmp_path / "x").stat().st_ino
    put(tmp_path / "x" if where != "current folder" else ".", "two", names=["a"])
    assert get(tmp_path / "x") == "two" and (tmp_path / "x").stat().st_ino == number
    assert not (tmp_path / "x/part/b").exists() and os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("content", ["", '{"kind": "other"}', None])
def test_files_of_others_are_not_replaced(content, tmp_path):
    (tmp_path / "a").write_text("mine")
    if content:
        (tmp_path / "last.json").write_text(content)
    with pytest.raises(FileExistsError, match="holds a.*this command did not write"):
        put(tmp_path, "new")
    assert (tmp_path / "a").read_text() == "mine" and not list(tmp_path.glob(".*"))
    (tmp_path / "a").rename(tmp_path / "c")
    if not content:
        put(tmp_path, "new")
        assert get(tmp_path) == "new" and (tmp_path / "c").read_text() == "mine"


def test_the_second_writer_is_refused_until_the_first_one_ends(tmp_path):
    code = (
        "import sys, time; from itm.utils.folders import replacing_folder\n"
        "with replacing_folder(sys.argv[1], 'last.json', [], lambda _: True):\n"
        "    print('writing', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "x")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as first:
        assert first.stdout.readline() == b"writing\n"
        with pytest.raises(BlockingIOError, match="x is being written by another process"):
            put(tmp_path / "x", "second")
        first.kill()
    put(tmp_path / "x", "second")
    assert get(tmp_path / "x") == "second" and os.listdir(tmp_path) == ["x"]


def test_readers_beside_a_writer_see_one_result(tmp_path):
    put(tmp_path / "x", "0")
    seen, ends = [], threading.Event()

    def watch():
        while not ends.is_set():
            seen.append(int(get(tmp_path / "x")))

    thread = threading.Thread(target=watch)
    thread.start()
    for number in range(1, 60):
        put(tmp_path / "x", str(number))
    ends.set()
    thread.join()
    assert seen == sorted(seen) and len(set(seen)) > 3 and get(tmp_path / "x") == "59"


def test_a_manifest_notices_damage_of_files_and_of_itself(tmp_path):
    put(tmp_path / "x", "one")
    manifest = tmp_path / "x/last.json"
    whole = manifest.read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            manifest.write_bytes(changed)
            try:
                facts, _ = read_manifest(manifest)
            except ValueError as error:
                assert "last.json" in str(error)
            else:  # blanks, or the name of the list of checksums
                facts.pop(next((key for key in facts if key not in ("kind", "text")), ""), None)
                assert facts == {"kind": "test", "text": "one"}
    manifest.write_bytes(whole)
    (tmp_path / "x/a").write_text("onE")
    with pytest.raises(ValueError, match="x/a is damaged or was written by another"):
        get(tmp_path / "x")
    (tmp_path / "x/a").unlink()
    with pytest.raises(ValueError, match="x/a is missing"):
        check_checksums(tmp_path / "x", read_manifest(manifest)[1])
    with pytest.raises(ValueError, match="outside"):
        check_checksums(tmp_path, {"../y": "0"})


def test_two_writers_of_a_file_do_not_mix(tmp_path):
    with replacing(tmp_path / "f") as one, replacing(tmp_path / "f") as two:
        one.write(b"1" * 1000)
        two.write(b"2" * 500)
    assert (tmp_path / "f").read_bytes() == b"1" * 1000
    assert [f.name for f in tmp_path.iterdir()] == ["f"]


def test_unfinished_files_of_ended_processes_are_removed(tmp_path):
    left = unfinished_name(tmp_path / "f")
    left.write_text("half")
    other = unfinished_name(tmp_path / "g")
    other.write_text("half")
    write_text(tmp_path / "f", "whole")
    assert {file.name for file in tmp_path.iterdir()} == {"f", other.name}


def test_only_regular_files_are_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for write in (replacing, unfinished_beside):
        with (
            pytest.raises(OSError, match="folder: a folder has this name"),
            write(tmp_path / "folder"),
        ):
            pass
        for device in (tmp_path / "pipe", "/dev/null"):
            with pytest.raises(OSError, match="a device or a pipe"), write(device):
                pass


def test_files_are_readable_by_others_as_the_system_is_set(tmp_path):
    with unfinished_beside(tmp_path / "f") as place:
        place.unlink()
        place.write_text("private")
        place.chmod(0o600)
    write_text(tmp_path / "g", "")
    open(tmp_path / "h", "w").close()
    assert len({(tmp_path / name).stat().st_mode for name in "fgh"}) == 1


def test_a_link_to_a_folder_stays(tmp_path):
    (tmp_path / "pictures").mkdir()
    put(tmp_path / "x", "one")
    (tmp_path / "x/plots").symlink_to(tmp_path / "pictures")
    put(tmp_path / "x", "two")
    assert get(tmp_path / "x") == "two" and (tmp_path / "x/plots").is_symlink()
