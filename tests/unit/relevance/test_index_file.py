from functools import partial

import numpy as np
import pytest

from itm.relevance import CiderIndex, cider, coco_tokens

CAPTIONS = ["a red dog runs", "a dog and a cat", "a cat sits", "two cats"]


@pytest.fixture
def path(tmp_path):
    CiderIndex(CAPTIONS, [0, 0, 1, 1]).save(tmp_path / "cider.npz")
    return tmp_path / "cider.npz"


def spoil(path, **arrays):
    with np.load(path) as saved:
        np.savez(path, **{**saved, **arrays})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: {"indices": a["indices"] + int(a["width"])}, "an index is out of range"),
        (lambda a: {"indices": a["indices"] - 100}, "an index is out of range"),
        (lambda a: {"indptr": a["indptr"][::-1].copy()}, "indptr does not rise"),
        (lambda a: {"indptr": a["indptr"][:-1]}, "indptr does not have an entry"),
        (lambda a: {"references": a["references"][:-1]}, "differ in number"),
        (lambda a: {"members": a["members"] + 1}, "a member is not a caption"),
        (lambda a: {"count": a["count"] + 1}, "counts and members differ"),
        (lambda a: {"length": a["length"] - 9}, "negative"),
        (lambda a: {"hypotheses": a["hypotheses"] * np.nan}, "NaN"),
        (lambda a: {"width": a["width"].astype(float)}, "width is float64"),
        (lambda a: {"count": a["count"].astype(str)}, "count is <U"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(path, change, message):
    with np.load(path) as saved:
        spoil(path, **change(dict(saved)))
    with pytest.raises(ValueError, match=f"cider.npz.*{message}"):
        CiderIndex.load(path)


def test_another_archive_is_named(tmp_path):
    np.savez(tmp_path / "a.npz", ranks=np.arange(3))
    with pytest.raises(ValueError, match="a.npz is not a CIDEr-D index: it has no hypotheses"):
        CiderIndex.load(tmp_path / "a.npz")
    with pytest.raises(FileNotFoundError):
        CiderIndex.load(tmp_path / "none.npz")


def test_an_index_of_other_captions_is_refused_by_content(path):
    CiderIndex.load(path, CAPTIONS, [0, 0, 1, 1])
    for captions, image in ((CAPTIONS[::-1], [0, 0, 1, 1]), (CAPTIONS, [0, 1, 1, 1])):
        with pytest.raises(ValueError, match="was made from other captions"):
            CiderIndex.load(path, captions, image)


class Split:
    def __init__(self, sign):
        self.sign = sign

    def __call__(self, caption):
        return caption.split(self.sign)


@pytest.mark.parametrize("kind", [Split, lambda sign: partial(str.split, sep=sign)])
def test_words_of_anything_callable_are_known_by_what_they_are(kind, tmp_path):
    """They have no name; and all lambdas have one name, so one passed for another."""
    image, file = [0, 0, 1, 1], tmp_path / "cider.npz"
    for tokens in (kind(" "), lambda caption: caption.split(" ")):
        CiderIndex(CAPTIONS, image, tokens=tokens).save(file)
        for same in (kind(" "), lambda caption: caption.split(" ")):
            CiderIndex.load(file, CAPTIONS, image, same)
        for other in (kind("a"), lambda caption: list(caption), coco_tokens):
            with pytest.raises(ValueError, match="captions, images, words or document freq"):
                CiderIndex.load(file, CAPTIONS, image, other)
    expected = cider(CAPTIONS, [["a dog"], ["a cat"]], tokens=lambda caption: caption.split(" "))
    np.testing.assert_array_equal(
        cider(CAPTIONS, [["a dog"], ["a cat"]], tokens=kind(" ")), expected
    )


def test_captions_are_compared_together_with_their_images(path):
    for given in ({"captions": CAPTIONS}, {"caption_image": [0, 0, 1, 1]}):
        with pytest.raises(ValueError, match="give captions= and caption_image= together"):
            CiderIndex.load(path, **given)
