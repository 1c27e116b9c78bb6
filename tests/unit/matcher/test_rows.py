"""Features and captions given in Python: what behaves like a list is read, all else is an error."""

import numpy as np
import pytest
import torch
from small_models import MODELS, WORDS

from itm.batch import Images
from itm.index.index import Index

CAPTIONS = ["a dog runs", "red cat"]


@pytest.fixture(scope="module")
def matcher():
    torch.manual_seed(0)
    found = MODELS["scan_t2i"]()
    found.vocab = WORDS
    return found.eval()


@pytest.fixture(scope="module")
def features():
    return np.random.default_rng(0).standard_normal((3, 4, 6)).astype(np.float32)


class Column:
    """Sentences of a data frame, as pandas gives them: no sequence, but an array."""

    ndim = 1

    def __len__(self):
        return len(CAPTIONS)

    def __iter__(self):
        return iter(CAPTIONS)

    def __array__(self, dtype=None, copy=None):
        return np.array(CAPTIONS, dtype)


class Table(Column):
    """A data frame: iterating over it gives the names of its columns."""

    ndim, columns = 2, ["image", "caption"]

    def __iter__(self):
        return iter(self.columns)


def tensors(x):
    tensor = torch.from_numpy(x)
    return [tensor, list(tensor), tensor.clone().requires_grad_(), np.ma.masked_array(x)]


def test_tensors_and_columns_are_read(matcher, features):
    expected = matcher.score(features, CAPTIONS)
    for given in tensors(features):
        np.testing.assert_array_equal(matcher.score(given, CAPTIONS), expected)
    for given in (tuple(CAPTIONS), np.array(CAPTIONS), np.array(CAPTIONS, object), Column()):
        np.testing.assert_array_equal(matcher.score(features, given), expected)
    half = torch.from_numpy(features).bfloat16()
    np.testing.assert_array_equal(
        matcher.score(half, CAPTIONS), matcher.score(half.float().numpy(), CAPTIONS)
    )


@pytest.mark.parametrize(
    "make",
    [iter, lambda x: dict(enumerate(x)), lambda x: {1, 2}, lambda _: None, lambda _: "ims.npy",
     lambda x: map(np.array, x), lambda _: Table(), lambda x: x.sum(),
     lambda x: Images(torch.from_numpy(x), torch.ones(3, 4).bool(), torch.arange(3))],
)  # fmt: skip
def test_features_without_order_or_length_are_refused(matcher, features, make):
    def uses():
        yield lambda: matcher.score(make(features), CAPTIONS)
        yield lambda: matcher.pairs(make(features), CAPTIONS)
        if make(features) is not None:
            yield lambda: matcher.embed(make(features))
            yield lambda: Index(matcher, make(features))

    for use in uses():
        with pytest.raises(
            ValueError, match=r"features must be an array .*; got (a \w+|'ims.npy')"
        ):
            use()


@pytest.mark.parametrize(
    "make",
    [iter, set, lambda x: {"captions": x}, lambda x: (y for y in x), lambda _: Table(), "".join,
     lambda x: dict.fromkeys(x).keys()],
)  # fmt: skip
def test_captions_without_order_or_length_are_refused(matcher, features, make):
    for use in (
        lambda: matcher.score(features, make(CAPTIONS)),
        lambda: matcher.pairs(features[:2], make(CAPTIONS)),
        lambda: matcher.embed(captions=make(CAPTIONS)),
        lambda: Index(matcher, captions=make(CAPTIONS)),
    ):
        with pytest.raises(ValueError, match="captions must be a list of sentences.*; got"):
            use()


def test_hidden_values_and_objects_are_refused(matcher, features):
    hidden = np.ma.masked_array(features, mask=features > 1)
    with pytest.raises(ValueError, match="masked array .* hides some of its values"):
        matcher.score(hidden, CAPTIONS)
    ragged = np.empty(2, object)
    ragged[:] = [features[0], features[1][:2]]
    with pytest.raises(ValueError, match=r"array of 2 objects: .*list\(x\)"):
        matcher.score(ragged, CAPTIONS)
    assert matcher.score(list(ragged), CAPTIONS).shape == (2, 2)


def test_an_index_keeps_the_sentences_of_an_array(matcher, features):
    index = Index(matcher, features, captions=np.array(CAPTIONS))
    assert index.captions == CAPTIONS
    assert {hit.item for hit in index.search(image=0)} == set(CAPTIONS)
    with pytest.raises(ValueError, match="ids must be a list of different names.*; got a set"):
        Index(matcher, features, ids={"a", "b", "c"})
