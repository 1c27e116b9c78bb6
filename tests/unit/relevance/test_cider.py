import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from goldens_path import case, read_npz, shared
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocoevalcap.cider.cider_scorer import CiderScorer

import itm.relevance.sources
from itm.relevance import (
    CiderIndex,
    DocumentFrequencies,
    cider,
    coco_tokens,
    document_frequencies,
    group_captions,
    relevance,
    spice,
    whitespace_tokens,
)

pytestmark = pytest.mark.filterwarnings("ignore:CIDEr-D is 0 everywhere")


def pycoco(captions, references):
    """Score all pairs by pycocoevalcap, which needs as many hypotheses as reference sets."""
    rows = []
    for caption in captions:
        scorer = CiderScorer()
        for group in references:
            scorer += (caption.lower(), [reference.lower() for reference in group])
        scorer.compute_doc_freq()  # compute_score() would fail where no reference has a word
        rows.append(scorer.compute_cider())
    return np.array(rows)


@pytest.fixture(scope="module")
def golden():
    folder = case("metrics/cider")
    data = json.loads((folder / "captions.json").read_text())
    references = data["references"]
    return SimpleNamespace(
        references=references,
        captions=[line for group in references for line in group] + data["hypotheses_extra"],
        data=data,
        corpus=json.loads((folder / "df_corpus.json").read_text()),
        expected=read_npz(folder / "expected.npz"),
    )


def test_golden_frequencies_of_the_references(golden):
    scores = cider(golden.captions, golden.references)
    np.testing.assert_allclose(scores, golden.expected["cider_d"], rtol=0, atol=1e-10)


def test_golden_frequencies_of_another_corpus(golden):
    expected = golden.expected["cider_d_extdf"]
    for df in (golden.corpus, document_frequencies(golden.corpus)):
        scores = cider(golden.captions, golden.references, df=df)
        np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-10)


def test_golden_tokens_of_the_coco_evaluation(golden):
    ptb = [golden.data["ptb_tokens"][i : i + 5] for i in range(0, 60, 5)]
    flat = [line for group in ptb for line in group]
    expected = golden.expected["cider_d_ptb"]
    np.testing.assert_allclose(cider(flat, ptb), expected, rtol=0, atol=1e-10)
    same = [" ".join(coco_tokens(line)) for group in golden.references for line in group]
    assert same == flat  # these lines are among the 99.9 % where no Java is needed
    scores = cider(golden.captions[:60], golden.references, tokens=coco_tokens)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-10)
    mine = np.diag(cider(golden.data["coco_eval_hyp"], ptb))
    np.testing.assert_allclose(mine, golden.expected["coco_eval_scores"], rtol=0, atol=1e-10)


def test_golden_float32(golden):
    out = np.empty((len(golden.captions), 12), np.float32)
    assert cider(golden.captions, golden.references, out=out) is out
    np.testing.assert_allclose(out, golden.expected["cider_d"], rtol=0, atol=1e-4)


words = st.sampled_from(["a", "the", "dog", "cat", ".", "runs", "on", "A"])
captions = st.lists(words, max_size=9).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(captions, min_size=1, max_size=4),
    st.lists(st.lists(captions, min_size=1, max_size=4), min_size=1, max_size=5),
)
def test_equals_pycocoevalcap(hypotheses, references):
    expected = pycoco(hypotheses, references)
    np.testing.assert_allclose(cider(hypotheses, references), expected, rtol=0, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.lists(captions, min_size=1, max_size=12), st.data())
def test_index_ways_agree(lines, data):
    """Matrix, batch, gather and top-k agree for any order of the captions' images."""
    rows = st.integers(-1, 4)
    image = np.array(data.draw(st.lists(rows, min_size=len(lines), max_size=len(lines))))
    index = CiderIndex(lines, image, images=5, dtype=np.float64)
    full = index.matrix()
    references = [[line for line, i in zip(lines, image, strict=True) if i == j] for j in range(5)]
    real = [j for j in range(5) if references[j]]
    assert full.shape == (len(lines), 5)
    assert not np.delete(full, real, axis=1).any()  # no references: nothing is relevant
    if real:
        expected = pycoco(lines, [references[j] for j in real])
        np.testing.assert_allclose(full[:, real], expected, rtol=0, atol=1e-9)

    c = np.array(data.draw(st.lists(st.integers(0, len(lines) - 1), min_size=1, max_size=6)))
    i = np.array(data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=6)))
    batch = index.batch(c, i)
    assert batch.dtype == np.float32
    np.testing.assert_allclose(batch, full[c][:, i].T, rtol=0, atol=1e-5)
    np.testing.assert_allclose(index.matrix(c, i), full[c][:, i], rtol=0, atol=1e-12)
    n = min(len(c), len(i))
    pairs = index.gather(c[:n], i[:n])
    np.testing.assert_allclose(pairs, full[c[:n], i[:n]], rtol=0, atol=1e-12)


def test_topk(golden):
    image = np.repeat(np.arange(12), 5)
    index = CiderIndex(golden.captions[:60], image, dtype=np.float64)
    full = index.matrix()
    for per, matrix in (("caption", full), ("image", full.T)):
        values, items = index.topk(7, per)
        order = np.argsort(-matrix, axis=1, kind="stable")[:, :7]
        np.testing.assert_array_equal(items, order)
        np.testing.assert_allclose(values, np.take_along_axis(matrix, order, 1), atol=1e-12)
    with pytest.raises(ValueError, match="per must be 'caption' or 'image', got 'row'"):
        index.topk(3, "row")


def test_a_caption_that_is_also_a_reference_is_split_once():
    references = [["a dog runs", "a cat"], ["a red car", "a cat"]]
    captions = [caption for group in references for caption in group]
    read = []

    def tokens(caption):
        read.append(caption)
        return whitespace_tokens(caption)

    np.testing.assert_array_equal(
        cider(captions, references, tokens=tokens), cider(captions, references)
    )
    assert sorted(read) == sorted(set(captions))


def test_a_caption_repeated_many_times_is_clipped():
    references = [["a dog " * 30, "a cat"], ["the bird sings"]]
    hypotheses = ["a dog", "a dog " * 12, "dog " * 40]
    expected = pycoco(hypotheses, references)
    np.testing.assert_allclose(cider(hypotheses, references), expected, rtol=0, atol=1e-9)


def test_single_image_is_zero_and_says_why():
    with pytest.warns(UserWarning, match="single image"):
        scores = cider(["a dog", ""], [["a dog", "a dog runs"]])
    np.testing.assert_array_equal(scores, np.zeros((2, 1)))
    corpus = [["a dog"], ["a cat"], ["the bird sings"]]
    assert cider(["the dog"], [["the dog"]], df=corpus)[0, 0] > 0


def test_empty_sides():
    assert cider([], [["a"], ["b"]]).shape == (0, 2)
    assert cider(["a"], []).shape == (1, 0)
    np.testing.assert_array_equal(cider(["a b"], [[], ["a b"], ["c"]])[0, [0, 2]], [0, 0])


def test_real_captions_against_pycocoevalcap():
    lines = shared("data/captions/coco_precomp/dev_caps.txt").read_text().splitlines()[:1000]
    references = group_captions(lines, np.arange(1000) // 5)
    scorer = CiderScorer()
    rng = np.random.default_rng(0)
    c, i = rng.integers(0, 1000, 200), np.arange(200)
    for a, b in zip(c, i, strict=True):
        scorer += (lines[a].lower(), [line.lower() for line in references[b]])
    index = CiderIndex(lines, np.arange(1000) // 5, dtype=np.float64)
    np.testing.assert_allclose(index.gather(c, i), scorer.compute_score()[1], rtol=0, atol=1e-9)
    batch = index.batch(c[:64], i[:64])
    np.testing.assert_allclose(batch, index.matrix(c[:64], i[:64]).T, rtol=0, atol=2e-6)


def test_index_travels(golden, tmp_path):
    index = CiderIndex(golden.captions[:60], np.repeat(np.arange(12), 5))
    index.save(tmp_path / "cider.npz")
    for copy in (pickle.loads(pickle.dumps(index)), CiderIndex.load(tmp_path / "cider.npz")):
        assert copy.shape == index.shape
        np.testing.assert_array_equal(copy.matrix(), index.matrix())
        np.testing.assert_array_equal(copy.batch([3, 9], [0, 1]), index.batch([3, 9], [0, 1]))


def test_memory_map(golden, tmp_path):
    shape = (60, 12)
    out = np.lib.format.open_memmap(tmp_path / "r.npy", "w+", np.float32, shape)
    cider(golden.captions[:60], golden.references, out=out)
    saved = relevance(tmp_path / "r.npy", golden.captions[:60], golden.references)
    np.testing.assert_allclose(saved, golden.expected["cider_d"][:60], rtol=0, atol=1e-4)


def test_bad_input():
    with pytest.raises(TypeError, match="strings, got bytes in row 1"):
        cider(["a", b"a"], [["a"]])
    with pytest.raises(ValueError, match="captions x images"):
        cider(["a"], [["a"], ["b"]], out=np.zeros((2, 1)))
    with pytest.raises(ValueError, match="of 2 images"):
        cider(["a"], [["a"], ["b"]], df=DocumentFrequencies({("a",): 3}, 2))
    with pytest.raises(ValueError, match="one image for each of 2 captions"):
        CiderIndex(["a", "b"], [0])
    with pytest.raises(ValueError, match=r"must lie in -1..1, got 0..2"):
        CiderIndex(["a", "b"], [0, 2], images=2)


def test_relevance_by_name(tmp_path):
    lines, references = ["a dog", "a cat", "the bird"], [["a dog", "the dog"], ["a bird"]]
    np.testing.assert_array_equal(relevance("cider", lines, references), cider(lines, references))
    own = np.arange(6.0).reshape(3, 2)
    assert relevance(own, lines, references) is own
    with pytest.raises(ValueError, match="transpose"):
        relevance(own.T, lines, references)
    with pytest.raises(ValueError, match="choose cider, spice"):
        relevance("rouge", lines, references)
    with pytest.raises(FileNotFoundError):
        relevance(tmp_path / "none.npy", lines, references)


def test_spice_without_java(monkeypatch):
    monkeypatch.setattr(itm.relevance.sources.shutil, "which", lambda name: None)
    with pytest.raises(OSError, match="needs Java"):  # which commands print in one line
        relevance("spice", ["a dog"], [["a cat"]])


def test_spice_fills_the_matrix(monkeypatch):
    """Replace the Java program by the share of common words."""
    from pycocoevalcap.spice.spice import Spice

    def overlap(a, b):
        a, b = set(a.split()), set(" ".join(b).split())
        return len(a & b) / len(a | b)

    def compute_score(self, gts, res):
        assert gts.keys() == res.keys()
        scores = [{"All": {"f": overlap(res[p][0], gts[p])}} for p in sorted(gts)]
        return 0.0, scores

    monkeypatch.setattr(itm.relevance.sources.shutil, "which", lambda name: "/usr/bin/java")
    monkeypatch.setattr(Spice, "__init__", lambda self: None)
    monkeypatch.setattr(Spice, "compute_score", compute_score)
    lines, references = ["a dog", "a cat", "the bird"], [["a dog", "the dog"], ["a bird"]]
    expected = [[overlap(line, group) for group in references] for line in lines]
    np.testing.assert_array_equal(spice(lines, references, block=4), expected)

    def offline(self):
        raise OSError("no route to host")

    monkeypatch.setattr(Spice, "__init__", offline)
    with pytest.raises(RuntimeError, match="download its parser"):
        spice(lines, references)


def test_a_string_is_no_list_of_captions():
    references = [["a dog"], ["a man"]]
    for wrong in ("dog", {"a dog"}, iter(["a dog"])):
        with pytest.raises(ValueError, match="captions must be a list of sentences; got"):
            cider(wrong, references)
    with pytest.raises(TypeError, match="references of image 0 must be a list of captions"):
        cider(["a dog"], references, df=["a man", "a dog"])


def test_images_are_given_by_whole_numbers():
    with pytest.raises(ValueError, match="integers, got shape .* of float64"):
        CiderIndex(["a dog", "a cat"], [0.9, 1.2])
