import numpy as np
import pytest

from itm.relevance import relevance

CAPTIONS, REFERENCES = ["a", "b", "c"], [["a"], ["b"]]


def nan(path):
    matrix = np.ones((3, 2))
    matrix[2, 1] = np.nan
    np.save(path, matrix)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (nan, "relevance of caption 2 holds NaN"),
        (lambda path: np.save(path, np.array([["1"] * 2] * 3)), "must hold numbers, got <U1"),
        (lambda path: path.write_bytes(b"\x93NUMPY"), r"r.npy \(6 bytes\) is not a complete .npy"),
        (lambda path: np.save(path, np.ones((2, 3))), "got .2, 3.: transpose it"),
    ],
)
def test_broken_files_are_named(tmp_path, write, message):
    write(tmp_path / "r.npy")
    with pytest.raises(ValueError, match=message):
        relevance(tmp_path / "r.npy", CAPTIONS, REFERENCES)


def test_a_file_is_read(tmp_path):
    np.save(tmp_path / "r.npy", np.arange(6).reshape(3, 2))
    assert relevance(tmp_path / "r.npy", CAPTIONS, REFERENCES)[2].tolist() == [4, 5]
