"""Compare the neighbourhood and logistic losses with loops over every constraint."""

import numpy as np
import pytest
import torch
from toy import MeanMatcher

from itm.batch import Captions, Encoded, Images, Pairs
from itm.losses import Logistic, Neighborhood, logistic, neighborhood
from itm.losses.neighborhood import neighbors, region_neighborhood
from itm.text.vocabulary import Vocabulary


def close(actual, expected, tolerance=1e-6):
    np.testing.assert_allclose(torch.as_tensor(actual).item(), expected, rtol=0, atol=tolerance)


def worst(values, k):
    return sorted(values, reverse=True)[:k]


def mean(rows):
    """Average over all values of all rows."""
    values = [x for row in rows for x in row]
    return sum(values) / len(values) if values else 0.0


def apart(a, b):
    return float(np.sqrt(((a - b) ** 2).sum() + 1e-4))


def batch(image, identity):
    """Make a batch that only states which captions belong to which images."""
    n, m = len(identity), len(image)
    images = Images(
        torch.zeros(n, 1, 1), torch.ones(n, 1, dtype=torch.bool), torch.tensor(identity)
    )
    tokens = torch.zeros(m, 1, dtype=torch.long)
    captions = Captions(tokens, (1,) * m, torch.arange(m), torch.tensor(image))
    return Pairs(images, captions)


BATCHES = [
    ([0, 0, 1, 1, 2, 2], [5, 6, 7]),
    ([0, 0, 1, 1, 2, 2, 3, 3], [5, 6, 5, 8]),  # one image twice
    ([2, 0, 0, 1, 2, 0, 3], [1, 2, 3, 4]),  # other counts, any order
    ([0, 1, 2, 3], [0, 1, 2, 3]),
    ([0, 0], [3]),
    ([0], [3]),
]


def encodings(image, identity, seed=0):
    rng = np.random.default_rng(seed)
    v, t = (
        x / np.linalg.norm(x, axis=1, keepdims=True)
        for x in (rng.normal(size=(len(identity), 4)), rng.normal(size=(len(image), 4)))
    )
    return v, t, np.array([[-apart(a, b) for b in t] for a in v])


@pytest.mark.parametrize(("image", "identity"), BATCHES)
@pytest.mark.parametrize("top_k", [1, 3, 10])
@pytest.mark.parametrize("masked", [False, True])
def test_neighborhood_in_loops(image, identity, top_k, masked):
    v, t, scores = encodings(image, identity)
    margin, weights = 0.4, (0.7, 1.3, 0.2, 0.3)

    def other(i, c):
        return image[c] != i and not (masked and identity[image[c]] == identity[i])

    rows_image, rows_caption = [], []
    for c, i in enumerate(image):
        own = scores[i, c]
        others = [j for j in range(len(v)) if other(j, c)]
        rows_caption.append(worst([max(0, margin + scores[j, c] - own) for j in others], top_k))
        others = [m for m in range(len(t)) if other(i, m)]
        rows_image.append(worst([max(0, margin + scores[i, m] - own) for m in others], top_k))
    ranking = weights[0] * mean(rows_image) + weights[1] * mean(rows_caption)

    def structure(x, same, ignored):
        rows = []
        for a in range(len(x)):
            far = max(apart(x[a], x[b]) for b in range(len(x)) if same(a, b))
            others = [b for b in range(len(x)) if not same(a, b) and not ignored(a, b)]
            rows.append(worst([max(0, margin + far - apart(x[a], x[b])) for b in others], top_k))
        paired = any(same(a, b) for a in range(len(x)) for b in range(a))
        return mean(rows) if paired else 0.0

    captions = structure(
        t,
        lambda a, b: image[a] == image[b],
        lambda a, b: masked and identity[image[a]] == identity[image[b]],
    )
    images = structure(v, lambda a, b: identity[a] == identity[b], lambda a, b: False)
    total = ranking + weights[2] * images + weights[3] * captions

    loss = Neighborhood(margin, top_k, *weights, mask_same_image=masked)
    pairs = batch(image, identity)
    encoded = (Encoded(torch.tensor(v)), Encoded(torch.tensor(t)))
    scores = torch.tensor(scores, requires_grad=True)
    close(loss.ranking(scores, pairs, encoded), ranking)
    terms = loss.terms(scores, pairs, encoded)
    close(terms["image_neighbors"], weights[2] * images)
    close(terms["caption_neighbors"], weights[3] * captions)
    value = loss(scores, pairs, encoded)
    close(value, total)
    value.backward()
    assert torch.isfinite(scores.grad).all()


def test_one_matrix_without_a_batch():
    scores = torch.tensor([[0.9, 0.5], [0.2, 0.4]])
    # margin 0.3: captions 0, 1 against images; images 0, 1 against captions
    expected = 1.0 * (0 + 0.1) / 2 + 2.0 * (0 + 0.4) / 2
    close(neighborhood(scores, margin=0.3, caption_weight=2.0), expected)
    close(Neighborhood(0.3, caption_weight=2.0)(scores), expected)
    positive = torch.tensor([[True, False], [True, True]])  # three matching pairs
    # anchors (0,0), (1,0), (1,1): image 0 against caption 1; image 1 has no negative; caption 0
    # none; caption 1 against image 0
    close(neighborhood(scores, positive, margin=0.5), 1.0 * 0.1 / 1 + 1.5 * 0.6 / 1)
    with pytest.raises(ValueError, match="not square"):
        neighborhood(scores[:, :1])
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        Neighborhood(top_k=0)


def test_equal_neighbours_have_no_nan():
    vectors = torch.ones(4, 3, requires_grad=True)
    same = torch.eye(4, dtype=torch.bool)
    neighbors(vectors, same).backward()
    assert torch.isfinite(vectors.grad).all()


@pytest.mark.parametrize("seed", range(3))
def test_regions_and_phrases_in_loops(seed):
    rng = np.random.default_rng(seed)
    image, count, margin, top_k = [0, 0, 1, 2, 2, 2], 5, 0.5, 2
    regions, phrases = rng.normal(size=(3, count, 4)), rng.normal(size=(6, 4))
    target = rng.integers(-1, 2, (6, count))
    scores = np.array([[-apart(r, phrases[c]) for r in regions[i]] for c, i in enumerate(image)])

    rows = {"region_anchor": [], "phrase_anchor": [], "region_neighbors": []}
    for c, i in enumerate(image):
        for r in np.flatnonzero(target[c] > 0):
            own, here = scores[c, r], regions[i][r]
            wrong = np.flatnonzero(target[c] < 0)
            hinge = [max(0, margin + scores[c, q] - own) for q in wrong]
            rows["phrase_anchor"].append(worst(hinge, top_k))
            others = [m for m in range(6) if image[m] != i or target[m, r] < 0]
            hinge = [max(0, margin - apart(here, phrases[m]) - own) for m in others]
            rows["region_anchor"].append(worst(hinge, top_k))
            far = max(apart(here, regions[i][q]) for q in np.flatnonzero(target[c] > 0))
            hinge = [max(0, margin + far - apart(here, regions[i][q])) for q in wrong]
            rows["region_neighbors"].append(worst(hinge, top_k))
    rows["phrase_neighbors"] = []
    for c in range(6):

        def same(m, c=c):
            together = image[m] == image[c] and ((target[m] > 0) & (target[c] > 0)).any()
            return m == c or together

        far = max(apart(phrases[c], phrases[m]) for m in range(6) if same(m))
        others = [m for m in range(6) if not same(m)]
        hinge = [max(0, margin + far - apart(phrases[c], phrases[m])) for m in others]
        rows["phrase_neighbors"].append(worst(hinge, 1))

    tensors = (torch.tensor(x) for x in (scores, regions, phrases, image, target))
    terms = region_neighborhood(*tensors, margin, top_k)
    assert terms.keys() == rows.keys()
    for name, value in terms.items():
        close(value, mean(rows[name]))


def test_regions_without_any_match():
    regions = torch.randn(2, 3, 4, requires_grad=True)
    phrases = torch.randn(2, 4, requires_grad=True)
    target = torch.tensor([[-1.0, 0, -1], [0, 0, 0]])
    terms = region_neighborhood(torch.randn(2, 3), regions, phrases, torch.arange(2), target)
    sum(terms.values()).backward()
    assert terms["region_anchor"] == terms["phrase_anchor"] == terms["region_neighbors"] == 0
    assert torch.isfinite(regions.grad).all() and torch.isfinite(phrases.grad).all()


# Logistic -----------------------------------------------------------------------------------------


def test_logistic_in_loops():
    rng = np.random.default_rng(0)
    scores, target = rng.normal(size=(4, 5)) * 3, rng.integers(-1, 2, (4, 5))
    values = [
        np.log(1 + np.exp(-y * s)) for s, y in np.stack([scores.ravel(), target.ravel()], 1) if y
    ]
    close(logistic(torch.tensor(scores), torch.tensor(target)), np.mean(values))
    image = [0, 0, 1, 2, 3]
    labels = [[1 if image[c] == i else -1 for c in range(5)] for i in range(4)]
    values = np.log(1 + np.exp(-np.array(labels) * scores)).mean()
    close(Logistic()(torch.tensor(scores), batch(image, [0, 1, 2, 3])), values)
    pairs = batch(image, [0, 1, 0, 3])._replace(target=torch.tensor(target))
    close(Logistic()(torch.tensor(scores), pairs), logistic(*map(torch.tensor, (scores, target))))
    with pytest.raises(ValueError, match=r"shape of scores \(2, 2\), got \(2, 3\)"):
        logistic(torch.zeros(2, 2), torch.zeros(2, 3))


def test_logistic_of_extreme_scores():
    scores = torch.tensor([[1e4, -1e4, float("-inf")]], requires_grad=True)
    value = logistic(scores, torch.tensor([[-1.0, -1.0, 0.0]]))
    value.backward()
    close(value, 5e3)
    assert scores.grad.tolist() == [[0.5, 0.0, 0.0]]
    assert logistic(scores, torch.zeros(1, 3)) == 0


def test_labels_of_a_batch():
    torch.manual_seed(0)
    image = [0, 0, 1, 2, 3, 3]
    pairs = batch(image, [7, 8, 7, 9])
    scores = torch.zeros(4, 6)
    positive = torch.arange(4)[:, None] == torch.tensor(image)
    labels = Logistic(mask_same_image=True).labels(scores, pairs)
    assert torch.equal(labels > 0, positive)
    for i, c in np.ndindex(4, 6):
        copies = {i, image[c]} == {0, 2}
        assert labels[i, c] == (1 if positive[i, c] else 0 if copies else -1)
    drawn = torch.stack([Logistic(negatives=2).labels(scores, pairs) for _ in range(200)])
    assert ((drawn > 0) == positive).all()
    assert ((drawn < 0).sum(1) == 2).all()  # of each caption's three other images
    share = (drawn < 0).float().mean(0)[~positive]
    assert (share - 2 / 3).abs().max() < 0.15
    assert ((Logistic(negatives=9).labels(scores, pairs) < 0) == ~positive).all()
    with pytest.raises(ValueError, match="negatives must be at least 1, .* got 0"):
        Logistic(negatives=0)


@pytest.mark.parametrize("loss", [Neighborhood(margin=0.2), Logistic(), Logistic(negatives=2)])
def test_losses_train_a_matcher_of_cosines(loss):
    torch.manual_seed(0)
    matcher = MeanMatcher(12, 6, loss=loss)
    matcher.vocab = Vocabulary(["<pad>", "<start>", "<end>", "<unk>", *"abcdefgh"])
    features = np.random.default_rng(0).normal(size=(4, 3, 6)).astype(np.float32)
    pairs = matcher.pairs(features, list("abcdefgh"), np.arange(4).repeat(2))
    optimizer = torch.optim.Adam(matcher.parameters(), lr=0.01)
    for _ in range(40):
        terms = matcher.losses(pairs)
        optimizer.zero_grad()
        terms["total"].backward()
        optimizer.step()
    if isinstance(loss, Neighborhood):
        assert set(terms) == {"ranking", "caption_neighbors", "total"}
    best = matcher.score(features, list("abcdefgh")).argmax(0)
    assert best.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
