"""Names of variable length are read in a process that can be ended."""

import os

import h5py
import numpy as np
import pytest

from itm.features import hdf5_nodes
from itm.features.hdf5 import read_hdf5


def written(path, **arrays):
    with h5py.File(path, "w") as file:
        file["features"] = np.ones((3, 2, 4), np.float32)
        for name, values in arrays.items():
            file[name] = values
    return path


def test_names_of_variable_length_are_read(tmp_path):
    path = written(tmp_path / "f.h5", ids=np.array(["a", "Hünde", ""], h5py.string_dtype()))
    assert [record.name for record in read_hdf5(path)] == ["a", "Hünde", ""]
    path = written(tmp_path / "g.h5", ids=np.array([b"a", b"b", b"c"]))
    assert [record.name for record in read_hdf5(path)] == ["a", "b", "c"]


def test_a_loop_in_libhdf5_is_ended(tmp_path, monkeypatch):
    path = written(tmp_path / "f.h5", ids=np.array(["a", "b", "c"], h5py.string_dtype()))
    monkeypatch.setattr(hdf5_nodes, "READ_NAMES", "while True: pass")
    monkeypatch.setattr(hdf5_nodes, "SECONDS", 0.2)
    with pytest.raises(ValueError, match=r"f\.h5: the strings in ids could not be read within"):
        list(read_hdf5(path))


def test_a_damaged_heap_ends_in_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5_nodes, "SECONDS", 5)  # libhdf5 loops for ever in this one
    path = written(tmp_path / "f.h5", ids=np.array(["a" * 2**20] * 3, h5py.string_dtype()))
    content = bytearray(path.read_bytes())
    first = content.find(b"GCOL")
    while first >= 0:
        content[first + 16 : first + 40] = bytes(24)  # the first object of the heap
        first = content.find(b"GCOL", first + 1)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"f\.h5: the strings in ids could not be read"):
        list(read_hdf5(path))


def test_other_objects_are_refused(tmp_path):
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("features", (3,), h5py.vlen_dtype(np.float32))
        data[0] = [1.0, 2.0]
        file["ids"] = np.array([b"a", b"b", b"c"])
    with pytest.raises(ValueError, match=r"f\.h5: features holds object, expected numbers"):
        list(read_hdf5(path))
    with h5py.File(tmp_path / "g.h5", "w") as file:
        group = file.create_group("1")
        group["features"] = np.ones((2, 4))
        group.attrs["image_w"], group.attrs["image_h"] = "wide", 3.0
    with pytest.raises(ValueError, match=r"g\.h5: attribute image_w must be a number"):
        list(read_hdf5(tmp_path / "g.h5"))


def test_names_of_many_bytes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5_nodes, "SMALL", 2**10)
    path = written(tmp_path / "f.h5", ids=np.array(["a" * 2**19] * 3, h5py.string_dtype()))
    monkeypatch.setattr(hdf5_nodes, "LARGER", 0)
    with pytest.raises(ValueError, match=r"f\.h5: the strings in ids .* and \d+ bytes"):
        list(read_hdf5(path))


def test_names_with_folders(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in ("val2014/1.jpg", "val2014/2.jpg"):
            file[name] = np.ones((2, 3), np.float32)
        file["train2014/3.jpg/features"] = np.ones((2, 3), np.float32)
    found = [record.name for record in read_hdf5(tmp_path / "a.h5")]
    assert sorted(found) == ["train2014/3.jpg", "val2014/1.jpg", "val2014/2.jpg"]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for row in range(9):
            file[f"val2014/{row}"] = np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match="val2014 holds 0, 1, 2, 3, 4 and 4 others; expected"):
        list(read_hdf5(tmp_path / "a.h5"))


def test_rows_of_variable_length_are_refused_with_a_remedy(tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        rows = file.create_dataset("features", (2,), h5py.vlen_dtype(np.float32))
        rows[0], rows[1] = np.ones(4), np.ones(6)
        file["ids"] = [b"a", b"b"]
    with pytest.raises(
        ValueError, match="features holds object.* rows of variable length .* num_boxes"
    ):
        list(read_hdf5(tmp_path / "f.h5"))


@pytest.mark.skipif(os.name != "posix", reason="limits of processes")
def test_names_are_read_below_a_smaller_limit_of_memory(tmp_path, monkeypatch):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))"
    monkeypatch.setattr(hdf5_nodes, "READ_NAMES", f"{limit}\n{hdf5_nodes.READ_NAMES}")
    path = written(tmp_path / "f.h5", ids=np.array(["a", "b", "c"], h5py.string_dtype()))
    assert [record.name for record in read_hdf5(path)] == ["a", "b", "c"]
