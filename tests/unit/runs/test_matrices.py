"""Score matrices that are kept, averaged, and matched to a split."""

import json
from pathlib import Path

import numpy as np
import pytest

from itm.data.fingerprint import split_digest
from itm.data.layout import Split
from itm.runs.ensembles import with_ensemble
from itm.runs.matrices import caption_owner, check_origin, read_matrices, write_matrices


def split(images, owner):
    captions = [f"caption {i}" for i in range(len(owner))]
    features, row = np.zeros((images, 1, 2)), np.arange(images)
    return Split("test", Path("folder"), features, row, captions, np.array(owner))


def test_an_ensemble_is_the_mean_of_its_members():
    a, b = np.array([[1.0, 2.0]]), np.array([[3.0, 6.0]])
    named = with_ensemble(["a", "b", "a"], [a, b, a])
    assert list(named) == ["a", "b", "a #3", "ensemble of 3"]
    np.testing.assert_allclose(named["ensemble of 3"], (2 * a + b) / 3, rtol=1e-6)
    assert a.tolist() == [[1, 2]]  # the members stay
    assert list(with_ensemble(["a"], [a])) == ["a"]


def test_every_two_matchers_can_be_averaged():
    a, b, c = (np.array([[float(x)]]) for x in (1, 2, 6))
    named = with_ensemble(["a", "b", "c"], [a, b, c], pairs=True)
    means = {"a + b": 1.5, "a + c": 3.5, "b + c": 4.0, "ensemble of 3": 3.0}
    assert {name: float(x[0, 0]) for name, x in named.items()} == {"a": 1, "b": 2, "c": 6, **means}
    assert list(with_ensemble(["a", "b"], [a, b], pairs=True)) == ["a", "b", "ensemble of 2"]


def test_matrices_are_read_as_written_and_must_have_one_shape(tmp_path):
    matrices = [np.arange(6.0).reshape(2, 3), np.ones((2, 3))]
    write_matrices(tmp_path, matrices)
    paths = [tmp_path / f"similarity_{i}.npy" for i in range(2)]
    for read, matrix in zip(read_matrices(paths), matrices, strict=True):
        np.testing.assert_array_equal(read, matrix)
    np.save(tmp_path / "other.npy", np.ones((3, 2)))
    with pytest.raises(ValueError, match=r"other.npy is \(3, 2\), expected .* \(2, 3\)"):
        read_matrices([*paths, tmp_path / "other.npy"])
    np.save(tmp_path / "words.npy", np.array([["a", "b"]]))
    with pytest.raises(ValueError, match="words.npy holds <U1, expected numbers"):
        read_matrices([tmp_path / "words.npy"])
    np.savez(tmp_path / "several.npz", a=np.ones((2, 3)))
    (tmp_path / "text.npy").write_text("1,2")
    for name in ("several.npz", "text.npy"):
        with pytest.raises(ValueError, match=f"{name}.* \\.npy file"):
            read_matrices([tmp_path / name])
    np.save(tmp_path / "flat.npy", np.ones(3))
    with pytest.raises(ValueError, match=r"flat.npy is \(3,\), expected \(images, captions\)"):
        read_matrices([tmp_path / "flat.npy"])


def test_captions_belong_to_the_split_or_to_every_fifth_image():
    own = split(2, [0, 1, 1])
    assert caption_owner(np.zeros((2, 3)), own).tolist() == [0, 1, 1]
    assert caption_owner(np.zeros((3, 15)), own).tolist() == np.repeat([0, 1, 2], 5).tolist()
    with pytest.raises(ValueError, match=r"the matrix is \(2, 4\), but folder test has 2 images"):
        caption_owner(np.zeros((2, 4)), own)


def test_scores_of_another_split_are_refused(tmp_path):
    """Dev and test of Flickr30K have the same size."""
    facts = {"split": "test", "root": "/data/folder", "protocol": "full", "images": 2}
    path = tmp_path / "similarity_0.npy"
    matrix, own = np.zeros((2, 2)), split(2, [0, 1])
    check_origin(path, matrix, own)  # nothing is known

    def check(**known):
        (tmp_path / "report.json").write_text(json.dumps({**facts, **known}))
        check_origin(path, matrix, own)

    check()
    check(content=split_digest(own))
    check(content=split_digest(own), split="dev", root="/data/f30k")  # the same under other names
    for other in ({"split": "dev"}, {"root": "/data/f30k"}):
        with pytest.raises(ValueError, match="holds scores of split .* give data.root="):
            check(**other)
    with pytest.raises(ValueError, match="captions or features have changed since"):
        check(content=split_digest(split(2, [1, 0])))


def test_numbers_keep_their_precision_and_any_byte_order_is_read(tmp_path):
    near = np.array([[0.5, 0.5 + 1e-12]])
    np.save(tmp_path / "big.npy", near.astype(">f8"))
    (read,) = read_matrices([tmp_path / "big.npy"])
    assert read.dtype.isnative and read[0, 1] > read[0, 0]
    mean = with_ensemble(["a", "b"], [near, near])["ensemble of 2"]
    assert mean[0, 1] > mean[0, 0]
