"""Laws that hold for any captions, scores and vocabularies, not only for the examples elsewhere."""

import json
from string import ascii_lowercase, ascii_uppercase

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from itm.data.caption_file import is_blank
from itm.data.layout import read_captions
from itm.losses.logistic import logistic
from itm.losses.triplet import triplet
from itm.metrics.retrieval import evaluate, ranks
from itm.relevance import cider
from itm.text.tokenizers import lower, tokenize
from itm.text.vocabulary import SPECIALS, Vocabulary

few = settings(max_examples=40, deadline=None)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=30)
UPPER = str.maketrans(ascii_lowercase, ascii_uppercase)
captions = texts.filter(lambda text: not is_blank(text.strip()))


@few
@given(st.lists(captions, min_size=1, max_size=8), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_a_file_of_captions_comes_back_line_by_line(tmp_path_factory, written, end, last):
    path = tmp_path_factory.mktemp("captions") / "c.txt"
    path.write_bytes((end.join(written) + end * last).encode())
    read = read_captions(path)
    assert len(read) == len(written)
    for ours, theirs in zip(read, written, strict=True):
        assert ours == theirs.lstrip("\ufeff").strip() or ours == theirs.strip()


@few
@given(st.lists(captions, min_size=1, max_size=8), st.integers(1, 3))
def test_vocabularies_survive_their_file(tmp_path_factory, corpus, min_count):
    vocab = Vocabulary.build(corpus, min_count)
    path = tmp_path_factory.mktemp("vocab") / "v.json"
    vocab.save(path)
    json.loads(path.read_text(encoding="utf-8"))
    assert Vocabulary.load(path) == vocab
    counts = [sum(tokenize(text).count(word) for text in corpus) for word in vocab.words[4:]]
    assert all(n >= min_count for n in counts)


@few
@given(texts)
def test_case_and_space_around_a_caption_do_not_matter(text):
    assert lower(lower(text)) == lower(text)
    assert tokenize(f"  {text}\t") == tokenize(text.translate(UPPER)) == tokenize(text)
    assert all(word and word == word.strip(" \t") for word in tokenize(text))
    ids = Vocabulary([*SPECIALS, "a"]).encode(text)
    assert len(ids) == 2 + len(tokenize(text)) and set(ids) <= {1, 2, 3, 4}


# Dyadic numbers, so that sums and differences of scores are exact.
numbers = st.integers(-64, 64).map(lambda n: n / 64)


@st.composite
def problems(draw):
    """Scores (N, M) and the image of each caption."""
    n, m = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    image = draw(st.lists(st.integers(0, n - 1), min_size=m, max_size=m))
    return draw(arrays(np.float64, (n, m), elements=numbers)), np.array(image)


@few
@given(problems(), st.randoms(use_true_random=False))
def test_ranks_depend_on_the_order_of_scores_only(problem, random):
    scores, image = problem
    i2t, t2i = ranks(scores, image)
    for other in (scores * 3 + 1, np.exp(scores), scores.astype(np.float32)):
        np.testing.assert_array_equal(ranks(other, image)[0], i2t)
        np.testing.assert_array_equal(ranks(other, image)[1], t2i)
    counts = np.bincount(image, minlength=len(scores))
    assert ((i2t == -1) == (counts == 0)).all()
    assert (i2t <= scores.shape[1] - counts).all() and (t2i < len(scores)).all()
    for k in (1, 5, 10):
        assert 0 <= evaluate(scores, image)[f"t2i_r{k}"] <= 100


@few
@given(problems(), st.sampled_from(["hardest", "all", "top"]), st.sampled_from([0.0, 0.25, 1.0]))
def test_laws_of_the_triplet_loss(problem, negatives, margin):
    scores, image = torch.from_numpy(problem[0]), torch.from_numpy(problem[1])
    loss = triplet(scores, image, margin=margin, negatives=negatives)
    assert loss >= 0
    # The same for all scores moved, for other orders of images and captions.
    torch.testing.assert_close(triplet(scores + 2, image, margin=margin, negatives=negatives), loss)
    rows, columns = torch.randperm(len(scores)), torch.randperm(len(image))
    moved = rows.argsort()[image][columns]
    shuffled = triplet(scores[rows][:, columns], moved, margin=margin, negatives=negatives)
    torch.testing.assert_close(shuffled, loss)
    # Nothing is left to do when every match beats all others by the margin.
    own = torch.arange(len(scores))[:, None] == image
    assert triplet(scores + 4 * own, image, margin=margin, negatives=negatives) == 0


@few
@given(problems())
def test_laws_of_the_logistic_loss(problem):
    scores = torch.from_numpy(problem[0])
    target = torch.where(torch.arange(len(scores))[:, None] == torch.from_numpy(problem[1]), 1, -1)
    loss = logistic(scores, target)
    expected = np.log1p(np.exp(-target.numpy() * problem[0])).mean()
    assert loss.item() == pytest.approx(expected)
    torch.testing.assert_close(logistic(-scores, -target), loss)


words = st.lists(st.sampled_from(["a", "the", "dog", "cat", ".", "runs"]), max_size=7).map(" ".join)
groups = st.lists(st.lists(words, min_size=1, max_size=3), min_size=2, max_size=4)


@few
@given(st.lists(words, min_size=1, max_size=4), groups, st.permutations(range(4)))
@pytest.mark.filterwarnings("ignore:CIDEr-D is 0 everywhere")
def test_laws_of_cider(hypotheses, references, order):
    scores = cider(hypotheses, references)
    assert (scores >= 0).all() and (scores <= 10 + 1e-9).all()
    # The order of captions, of images and of an image's references is of no account.
    rows = [i for i in order if i < len(references)]
    moved = cider(hypotheses[::-1], [references[i][::-1] for i in rows])
    np.testing.assert_allclose(moved, scores[::-1][:, rows], atol=1e-9)
    # A copy of the only reference is as good as any caption can be.
    alone = [[group[0]] for group in references]
    both = cider([*hypotheses, references[0][0]], alone)
    assert (both[-1, 0] >= both[:-1, 0] - 1e-9).all()
