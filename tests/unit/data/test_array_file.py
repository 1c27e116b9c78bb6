import os
import pickle

import numpy as np
import pytest
from corpus import write

from itm.data.array_file import ArrayFile, load_array, read_array
from itm.data.layout import read_split
from itm.data.module import RegionDataModule
from itm.data.repeated import first_regions, period, repeated_rows


def opened(path):
    return ArrayFile(path, read_array(path))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["float32", "float16", ">f8"])
def test_rows_equal_those_of_the_array(tmp_path, dtype, order):
    array = np.random.default_rng(0).normal(size=(9, 3, 4)).astype(dtype)
    np.save(tmp_path / "a.npy", np.asarray(array, order=order))
    file = opened(tmp_path / "a.npy")
    for rows in ([3, 4, 5, 0, 8, 8], [], range(9)):
        np.testing.assert_array_equal(file[np.array(rows, int)], array[list(rows)])
    chosen = ArrayFile(tmp_path / "a.npy", read_array(tmp_path / "a.npy"), np.array([7, 2]))
    np.testing.assert_array_equal(chosen[np.array([1])], array[[2]])


def test_it_can_be_sent_to_another_process(tmp_path):
    np.save(tmp_path / "a.npy", np.eye(100))
    sent = pickle.dumps(opened(tmp_path / "a.npy"))
    assert len(sent) < 1000
    copy = pickle.loads(sent)
    np.testing.assert_array_equal(copy[np.array([2])], np.eye(100)[[2]])


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def overwrite(path):
    with path.open("r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(bytes(8))
    os.utime(path, ns=(1, 1))  # a clock too coarse for this test would hide the write


def replace(path):
    np.save(path.with_suffix(".new.npy"), np.zeros((6, 3, 4), np.float32))
    path.with_suffix(".new.npy").replace(path)


def grow(path):
    with path.open("ab") as file:
        file.write(bytes(8))


@pytest.mark.parametrize("change", [cut, overwrite, replace, grow])
def test_features_that_change_during_training_are_an_error(tmp_path, change):
    for name in ("train", "dev", "test"):
        write(tmp_path, name)
    data = RegionDataModule(tmp_path, batch_size=4, min_count=1)
    data.setup()
    batches = iter(data.train_dataloader())
    next(batches)
    change(tmp_path / "train_ims.npy")
    with pytest.raises(ValueError, match=r"train_ims.npy was changed during the run.*bytes"):
        next(batches)


def test_features_that_were_removed_can_still_be_read(tmp_path):
    features = write(tmp_path)
    split = read_split(tmp_path, "train")
    (tmp_path / "train_ims.npy").unlink()
    np.testing.assert_array_equal(split.images(np.array([2])), features[[2]])


def test_sentence_vectors_that_are_cut_during_training_are_an_error(tmp_path):
    write(tmp_path)
    np.save(tmp_path / "train_caps.npy", np.zeros((30, 2), np.float32))
    vectors = read_split(tmp_path, "train").sentence_file()
    cut(tmp_path / "train_caps.npy")
    with pytest.raises(ValueError, match=r"train_caps.npy was changed"):
        vectors[np.array([29])]


@pytest.mark.parametrize("shape", [(9, 3, 4), (9, 4)])
def test_first_regions_and_repetitions_are_those_of_the_array(tmp_path, shape):
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    array[1], array[5] = array[0], array[4]
    rounds = np.concatenate([array[2:5]] * 3)
    for given, after in ((array, 0), (rounds, 3)):
        np.save(tmp_path / "a.npy", given)
        file = opened(tmp_path / "a.npy")
        np.testing.assert_array_equal(first_regions(file, 1, 5), first_regions(given, 1, 5))
        np.testing.assert_array_equal(repeated_rows(file), repeated_rows(given))
        assert period(file) == period(given) == after


def test_a_file_that_shrinks_after_its_header_was_read(tmp_path, monkeypatch):
    """Through a memory map, this would end the process by SIGBUS."""
    path = tmp_path / "a.npy"
    np.save(path, np.ones((1000, 1000)))
    mapped = read_array(path)
    cut(path)
    monkeypatch.setattr("itm.data.array_file.read_array", lambda _: mapped)
    with pytest.raises(ValueError, match=r"a\.npy was changed while it was read"):
        load_array(path)


@pytest.mark.parametrize("workers", [0, 2])
def test_features_of_other_splits_that_change_are_an_error(tmp_path, workers):
    for name in ("train", "dev", "test"):
        write(tmp_path, name)
    data = RegionDataModule(tmp_path, batch_size=4, min_count=1, workers=workers)
    data.setup()
    test = data.split("test")
    assert data.split("val").num_images == 6  # read at its first use
    cut(tmp_path / "dev_ims.npy")
    with pytest.raises(ValueError, match=r"dev_ims.npy was changed during the run"):
        for loader in data.val_dataloader():
            list(loader)
    replace(tmp_path / "test_ims.npy")
    with pytest.raises(ValueError, match=r"test_ims.npy was changed during the run"):
        test.view()[:2]  # as evaluation and an index read it
