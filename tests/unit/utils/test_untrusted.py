"""Pickles, archives and TensorFlow's files from elsewhere: an error or a value, nothing else."""

import os
import pickle
import random
import struct
import subprocess
import sys
import warnings
import zipfile
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from tensorflow_file import HEADER, entry, table

from itm.published.tensorflow import read_variables
from itm.utils.archive import read_npz
from itm.utils.crc32c import crc32c
from itm.utils.readers import reading
from itm.utils.safe_pickle import read_arrays
from itm.utils.torch_files import read_torch

CONTENT = {
    "a": np.arange(6).reshape(2, 3),
    "f": np.asfortranarray(np.ones((2, 3), np.float32)),
    "n": np.float64(3),
    "words": np.array(["ab", "c"]),
    "empty": np.zeros((0, 3)),
    "plain": [1.5, None, (1, 2, 3, 4), {1, 2}, b"xy", b"", 10**30],
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_are_read_as_numpy_wrote_them(protocol, tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(CONTENT, protocol))
    found = read_arrays(tmp_path / "a.pkl")
    assert repr(found) == repr(CONTENT)
    assert found["f"].flags.f_contiguous and found["a"].dtype == CONTENT["a"].dtype


BAD = {
    "objects": pickle.dumps(np.array([print], dtype=object)),
    "a deep tuple as a key": b"}" + b")" + b"\x85" * 100_000 + b"K\x01s.",
    "deep lists": b"]" * 1000 + b"a" * 999 + b".",
    "a list in itself": b"]q\x00h\x00a.",
    "many values of few bytes": b"]" + b"q\x00]h\x00ah\x00aq\x00" * 40 + b".",
    "a memo of 64 GiB": b"Nr\xff\xff\xff\xff.",
    "a string of 4 GiB": b"X\xff\xff\xff\xffa.",
    "bytes of 2**62": b"\x80\x05\x96" + struct.pack("<Q", 2**62) + b".",
    "more than there is": pickle.dumps(np.zeros(4), 2).replace(b"K\x04\x85", b"K\x05\x85"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_pickle_cannot_exhaust_or_end_the_process(kind, tmp_path):
    (tmp_path / "a.pkl").write_bytes(BAD[kind])
    code = (
        "import resource, sys; from pathlib import Path; from itm.utils.safe_pickle import *\n"
        "resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))\n"
        "try: print('value', len(repr(read_arrays(Path(sys.argv[1])))))\n"
        "except ValueError: print('error')"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.pkl")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0 and found.stdout, found.stderr[-300:]


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value


MANY = 300
LARGE = text(b"a" * 2**20) + b"q\x010"
PAIRS = (
    b"]q\x01(" + b"".join(b"J" + struct.pack("<i", i) + b"K\x01\x86" for i in range(20_000)) + b"e0"
)
COPIES = {  # each call costs a few bytes and copies one large value
    "bytes": b"c_codecs\nencode\nq\x000" + LARGE + text(b"latin1") + b"q\x020("
    + b"h\x00h\x01h\x02\x86R" * MANY,
    "dicts": b"ccollections\nOrderedDict\nq\x000" + PAIRS + b"(" + b"h\x00h\x01\x85R" * MANY,
    "arrays": b"cnumpy._core.numeric\n_frombuffer\nq\x000" + LARGE + b"cnumpy\ndtype\n"
    + text(b"u1") + b"\x85Rq\x020J" + struct.pack("<i", 2**20) + b"\x85q\x030" + text(b"C")
    + b"q\x040(" + b"h\x00(h\x01h\x02h\x03h\x04tR" * MANY,
}  # fmt: skip


@pytest.mark.parametrize("kind", COPIES)
def test_a_pickle_of_few_bytes_cannot_ask_for_many_copies(kind, tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02]" + COPIES[kind] + b"e.")
    with pytest.raises(ValueError, match=r"a\.pkl .*copies its values to more bytes than it has"):
        read_arrays(tmp_path / "a.pkl")


def mutated(data, rng):
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(data))
        change = rng.randrange(3)
        if change == 0:
            data[place] = rng.randrange(256)
        elif change == 1:
            del data[place : place + rng.randint(1, 4)]
        else:
            data[place:place] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 4)))
    return bytes(data)


def test_a_tensorflow_checkpoint_is_checked(tmp_path):
    data = tmp_path / "m.data-00000-of-00001"
    data.write_bytes(b"\0" * 8)

    def read(*entries):
        (tmp_path / "m.index").write_bytes(table([HEADER, *entries]))
        return read_variables(tmp_path / "m")

    assert torch.equal(read((0, b"w", entry()))["w"], torch.zeros(2))
    for wrong in (
        entry(size=12), entry(offset=1), entry(dims=(b"\x08\x02",) * 17), entry(checksum=1),
        entry(dims=(b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",)), b"\x0a\x01a", b"\x0b\x01",
        b"\x08\x01\x10\x05\x28\x08", b"\x08\x01\x2a\x01a", b"\x08" + b"\xff" * 100,
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"m\.(index|data)"):
            read((0, b"w", wrong))
    with pytest.raises(ValueError, match="not in order"):
        read((0, b"w", entry()), (0, b"w", entry()))
    with pytest.raises(ValueError, match="beyond its block"):
        read((9, b"w", entry()))
    data.write_bytes(b"\0\0\0\0\x01\0\0\0")
    with pytest.raises(ValueError, match="checksum of w"):
        read((0, b"w", entry()))


def test_checksums_are_those_of_the_standard():
    assert crc32c(b"123456789") == 0xE3069283 and crc32c(b"\0" * 32) == 0x8A9136AA
    long = bytes(range(256)) * 20 + b"end"  # several lanes
    register = 0xFFFFFFFF
    for byte in long:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    assert crc32c(long) == register ^ 0xFFFFFFFF


@pytest.mark.parametrize("count", [300, pytest.param(20_000, marks=pytest.mark.slow)])
def test_changed_files_are_an_error_or_a_value(count, tmp_path):
    rng = random.Random(0)
    tensors = {"model": [{"w": torch.ones(2, 3)}], "opt": {"a": 1, "b": [1.5, "x"]}}
    torch.save(tensors, tmp_path / "zip")
    torch.save(tensors, tmp_path / "legacy", _use_new_zipfile_serialization=False)
    np.savez(tmp_path / "a.npz", w=np.ones((2, 3)))
    (tmp_path / "m.data-00000-of-00001").write_bytes(b"\0" * 8)
    seeds = [pickle.dumps(CONTENT, protocol) for protocol in (0, 2, 4)]
    cases = [("a.pkl", read_arrays, data) for data in seeds]
    cases += [(name, read_torch, (tmp_path / name).read_bytes()) for name in ("zip", "legacy")]
    cases.append(("a.npz", read_npz, (tmp_path / "a.npz").read_bytes()))
    index = table([HEADER, (0, b"w", entry())])
    cases.append(("m.index", lambda _: read_variables(tmp_path / "m"), index))
    for name, read, whole in cases:
        for _ in range(count):
            (tmp_path / name).write_bytes(mutated(whole, rng))
            try:
                read(tmp_path / name)
            except (ValueError, OSError) as error:
                assert name in str(error) or "m.data-" in str(error)


def test_an_archive_has_a_budget(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("w.npy", bytes(2**29))
    with pytest.raises(ValueError, match="members claim 536870912 bytes"):
        read_npz(tmp_path / "a.npz")


def test_two_arrays_of_one_name_are_refused(tmp_path):
    for names in (("w.npy", "w.npy"), ("w", "w.npy")):
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zipfile warns of the second
            for name in names:
                with archive.open(name, "w") as member:
                    np.save(member, np.ones(2))
        with pytest.raises(ValueError, match=r"a\.npz .*two arrays of one name"):
            read_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("change", ["cut", "write", "extend", "replace", "remove"])
def test_a_file_that_changes_while_it_is_read(change, tmp_path):
    """Whoever has opened a file that is replaced or removed still reads the old content whole."""
    path = tmp_path / "f.tsv"
    path.write_text("one\ntwo\n")
    whole = nullcontext() if change in ("replace", "remove") else pytest.raises(ValueError)
    with whole as error, reading(path):
        if change == "cut":
            os.truncate(path, 3)
        elif change == "write":
            os.utime(path, ns=(1, 1))
        elif change == "extend":
            path.write_text("one\ntwo\nthree\n")
        elif change == "replace":
            (tmp_path / "new").write_text("another")
            (tmp_path / "new").replace(path)
        else:
            path.unlink()
    assert error is None or f"{path} was changed while it was in use: it had 8" in str(error.value)


def test_a_checksum_is_compared_where_seeking_turns_it_off(tmp_path, monkeypatch):
    """As it does in members that are not compressed since Python 3.13.2."""
    real = zipfile.ZipExtFile.seek

    def seek(self, *where):
        self._expected_crc = None
        return real(self, *where)

    monkeypatch.setattr(zipfile.ZipExtFile, "seek", seek)
    path = tmp_path / "a.pth"
    torch.save({"name": "dog", "weight": torch.ones(2)}, path)
    assert read_torch(path)["name"] == "dog"
    path.write_bytes(path.read_bytes().replace(b"dog", b"fog"))
    with pytest.raises(ValueError, match=r"a\.pth could not be read safely.*CRC"):
        read_torch(path)


def test_a_file_under_its_short_name_is_watched_too(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a").write_text("before")
    with pytest.raises(ValueError, match="a was changed while it was in use"), reading("~/a"):
        (tmp_path / "a").write_text("after it")
