import gzip

import numpy as np
import pytest

from itm.text.word_vectors import word_vectors


def test_words_without_vectors_are_told(tmp_path, capsys):
    (tmp_path / "v.txt").write_text("dog 1 2\ncat 3 4\n")
    word_vectors(["<pad>", "dog", "cat"], tmp_path / "v.txt")
    assert not capsys.readouterr().out
    word_vectors(["dog", "cat", "x"], tmp_path / "v.txt")
    told = capsys.readouterr().out
    assert "no vector for 1 of 3 words, such as 'x'" in told and "warning" not in told
    word_vectors(["dog", "hund", "katze"], tmp_path / "v.txt")
    told = capsys.readouterr().out
    assert "no vector for 2 of 3 words, such as 'hund', 'katze'" in told and "warning" in told


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("v.txt", b"dog nan 2\n", "v.txt: the vector of 'dog' holds NaN"),
        ("v.txt", b"\xff\xfe 1 2\n", "v.txt has a vector for none of the 1 words"),
        ("v.npy", b"\x93NUMPY", "v.npy is not a complete .npy file"),
        ("v.npy", np.zeros((1, 2), "U3"), "v.npy holds <U3 values"),
        ("v.npy", np.full((1, 2), np.inf), "v.npy holds float64 values that are not all finite"),
        ("v.npy", np.zeros((2, 2)), r"v.npy is \(2, 2\), expected a row for each of the 1 words"),
    ],
)
def test_broken_files_are_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)
    with pytest.raises(ValueError, match=message):
        word_vectors(["dog"], path)


def test_other_files_and_repeated_words_are_told(tmp_path, capsys):
    (tmp_path / "v.txt").write_text("2 2\ndog 1 2\ncat 3 4\ndog 5 6\ncat 3 4\n")
    found = word_vectors(["dog", "cat"], tmp_path / "v.txt")
    assert found.tolist() == [[1, 2], [3, 4]]
    assert "several vectors for 1 words, such as 'dog'" in capsys.readouterr().out
    (tmp_path / "v.txt").write_bytes(gzip.compress(b"dog 1 2\n", mtime=0))
    with pytest.raises(ValueError, match=r"none of the 1 words; the file is compressed by gzip"):
        word_vectors(["dog"], tmp_path / "v.txt")


@pytest.mark.parametrize(
    "text", ["dog  1 2\ncat 3 4\n", "dog\t1\t2\ncat\t3\t4\n", "\ufeffdog 1 2\ncat 3 4"]
)
def test_blanks_tabs_and_marks_change_nothing(tmp_path, text):
    (tmp_path / "v.txt").write_text(text, encoding="utf-8")
    assert word_vectors(["dog", "cat"], tmp_path / "v.txt").tolist() == [[1, 2], [3, 4]]


def test_a_cut_last_line_is_an_error(tmp_path):
    (tmp_path / "v.txt").write_text("dog 1 2\ncat 3")
    with pytest.raises(ValueError, match=r"vectors of widths \[1, 2\]"):
        word_vectors(["dog", "cat"], tmp_path / "v.txt")
