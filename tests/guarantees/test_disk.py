"""A disk that is full or read-only: one clear error, the previous checkpoint whole, then onwards.

Needs the right to mount a small tmpfs; elsewhere test_interruption.py limits the size of files.
"""

import ctypes
import ctypes.util
import os
import signal
from functools import partial

import pytest
from interruption import ARGUMENTS, assert_same, checkpoint, signal_at_batch
from processes import Run

from itm.utils.archive import damage

LIBC = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
READ_ONLY, REMOUNT = 1, 32


def mount(folder, flags=0):
    if LIBC.mount(b"tmpfs", bytes(folder), b"tmpfs", flags, b"size=8m"):
        pytest.skip(f"cannot mount a tmpfs here: {os.strerror(ctypes.get_errno())}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With an undisturbed run beside a disk of 8 MB."""
    folder = tmp_path_factory.mktemp("disk")
    (folder / "small").mkdir()
    mount(folder / "small")
    (folder / "conf/model").mkdir(parents=True)
    (folder / "conf/model/mean.yaml").write_text(
        "_target_: toy.MeanMatcher\nvocab_size: null\nimg_dim: null\nembed_dim: 64\n"
    )
    start(folder, "whole").done()
    yield folder
    LIBC.umount2(bytes(folder / "small"), 2)


def start(folder, name, before=None):
    arguments = (*ARGUMENTS, f"hydra.run.dir={name}", "resume=true")
    return Run(*arguments, cwd=folder, name=name.replace("/", "_"), before=before)


def begun(folder, name):
    """A run that was stopped in its second epoch."""
    start(folder, name, partial(signal_at_batch, signal.SIGTERM, 13)).wait()
    assert checkpoint(folder / name)["global_step"] == 14
    return folder / name / "checkpoints/last.ckpt"


def free(folder):
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_bsize


def test_a_full_disk(folder):
    last, filler = begun(folder, "small/full"), folder / "small/filler"
    before = last.read_bytes()
    # Room for what a run notes when it starts, not for another checkpoint.
    filler.write_bytes(b"\0" * (free(folder / "small") - len(before) // 2))
    run = start(folder, "small/full")
    assert run.wait() == 1
    assert "error: cannot write" in run.text and "No space left on device" in run.text
    assert "continue with: python -m itm.train resume=" in run.text
    assert "Traceback" not in run.text
    assert last.read_bytes() == before and damage(last) is None
    assert not list((folder / "small").rglob("*.unfinished"))
    filler.unlink()
    start(folder, "small/full").done()
    assert_same(folder / "small/full", folder / "whole")


def test_a_disk_that_becomes_read_only(folder):
    last = begun(folder, "small/frozen")
    before = last.read_bytes()
    mount(folder / "small", READ_ONLY | REMOUNT)
    run = start(folder, "small/frozen")
    code = run.wait()
    mount(folder / "small", REMOUNT)
    assert code == 1 and "Traceback" not in run.text
    assert "error: " in run.text and "Read-only file system" in run.text
    assert last.read_bytes() == before
    start(folder, "small/frozen").done()
    assert_same(folder / "small/frozen", folder / "whole")
