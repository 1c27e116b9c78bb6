import json
import warnings

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import itm.metrics.ranking
from itm.metrics.ranking import expand, topk
from itm.metrics.retrieval import (
    Protocol,
    evaluate,
    evaluate_vectors,
    ranks,
    recall,
    streamed_ranks,
    summary,
)
from itm.metrics.torchmetric import RetrievalMetrics


def slow_ranks(scores, image_of):
    """Sort every list stably in plain Python and look for the right item."""
    n, m = scores.shape
    i2t, t2i = [], []
    for i in range(n):
        order = sorted(range(m), key=lambda c: -scores[i, c])
        found = [place for place, c in enumerate(order) if image_of[c] == i]
        i2t.append(found[0] if found else -1)
    for c in range(m):
        order = sorted(range(n), key=lambda i: -scores[i, c])
        t2i.append(order.index(image_of[c]))
    return np.array(i2t), np.array(t2i)


def same(a, b):
    np.testing.assert_array_equal(a[0], b[0])
    np.testing.assert_array_equal(a[1], b[1])


@st.composite
def problems(draw):
    """Draw few distinct scores (many ties), infinities, images without captions, any order."""
    n, m = draw(st.integers(1, 7)), draw(st.integers(1, 12))
    values = st.sampled_from([-np.inf, -1.0, -0.5, 0.0, 0.25, 1.0, np.inf])
    scores = draw(arrays(np.float32, (n, m), elements=values))
    image_of = draw(st.lists(st.integers(0, n - 1), min_size=m, max_size=m))
    return scores, np.array(image_of)


@settings(max_examples=200, deadline=None)
@given(problems(), st.integers(1, 5))
def test_ranks_against_sorting(problem, block):
    scores, image_of = problem
    expected = slow_ranks(scores, image_of)
    same(ranks(scores, image_of), expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(itm.metrics.ranking, "TILE", block)
        same(ranks(scores, image_of), expected)
    same(ranks(torch.from_numpy(scores), torch.from_numpy(image_of)), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32])
def test_ranks_of_other_types(dtype):
    scores = (torch.randn(9, 20, generator=torch.Generator().manual_seed(0)) * 4).to(dtype)
    image_of = np.arange(20) % 9
    same(ranks(scores, image_of), slow_ranks(scores.double().numpy(), image_of))


def test_ranks_leave_the_matrix_alone(tmp_path):
    scores = np.random.default_rng(0).standard_normal((6, 30), np.float32)
    np.save(tmp_path / "s.npy", scores)
    tensor = torch.from_numpy(scores.copy())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a read-only map must not upset torch
        on_disk = np.load(tmp_path / "s.npy", mmap_mode="r")
        same(ranks(on_disk), ranks(tensor))
    np.testing.assert_array_equal(tensor, scores)


def test_constant_scores_are_no_success():
    i2t, t2i = ranks(np.ones((4, 20)))
    np.testing.assert_array_equal(i2t, [0, 5, 10, 15])
    np.testing.assert_array_equal(t2i, np.repeat(np.arange(4), 5))


def test_one_pair():
    same(ranks(np.array([[0.3]]), [0]), ([0], [0]))
    assert evaluate(np.array([[0.3]]), [0])["rsum"] == 600


@pytest.mark.parametrize("place", [(0, 0), (3, 7), (4, 24)])
def test_nan_raises(place):
    scores = np.zeros((5, 25), np.float32)
    scores[place] = np.nan
    with pytest.raises(ValueError, match="contains NaN"):
        ranks(scores)
    with pytest.raises(ValueError, match="contain NaN"):
        topk(scores, 3)


@pytest.mark.parametrize(
    ("shape", "image_of", "message"),
    [
        ((4, 8), None, "pass caption_image"),
        ((4, 8), np.zeros(7, int), "must hold 8 integers"),
        ((4, 8), np.zeros(8), "float64"),
        ((4, 8), np.arange(8), "0..3"),
        ((4, 8), np.arange(8) - 4, "0..3"),
        ((4,), None, "images x captions"),
    ],
)
def test_bad_sizes(shape, image_of, message):
    for function in (ranks, evaluate):
        with pytest.raises(ValueError, match=message):
            function(np.zeros(shape), image_of)


@pytest.mark.parametrize("block", [1, 7, 64, 1024])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_streamed_ranks(block, dtype):
    """Use vectors of small integers: exact products keep ties the same for every block size."""
    rng = np.random.default_rng(1)
    images = rng.integers(-3, 4, (23, 4)).astype(dtype)
    captions = rng.integers(-3, 4, (61, 4)).astype(dtype)
    image_of = rng.integers(0, 23, 61)
    expected = slow_ranks(images @ captions.T, image_of)
    same(streamed_ranks(images, captions, image_of, block), expected)
    same(streamed_ranks(torch.from_numpy(images), torch.from_numpy(captions), image_of), expected)


def test_streamed_ranks_of_real_numbers():
    g = torch.Generator().manual_seed(0)
    images = torch.nn.functional.normalize(torch.randn(60, 33, generator=g, dtype=torch.float64))
    noise = torch.randn(300, 33, generator=g, dtype=torch.float64)
    captions = torch.nn.functional.normalize(images.repeat_interleave(5, 0) + 0.2 * noise)
    expected = ranks(images @ captions.T)
    same(streamed_ranks(images, captions, block=16), expected)
    assert 0 < recall(expected[1], 1) < 100
    with torch.autocast("cpu", dtype=torch.bfloat16):
        single = streamed_ranks(images.float(), captions.float())
    same(single, ranks(images.float() @ captions.float().T))
    same(streamed_ranks(images, captions.numpy()), expected)
    mixed = streamed_ranks(images.half(), captions)
    same(mixed, ranks(images.half().double() @ captions.T))
    with pytest.raises(ValueError, match="of the same width"):
        streamed_ranks(images, captions[:, 1:])


@settings(max_examples=100, deadline=None)
@given(problems(), st.integers(0, 14))
def test_topk_against_stable_sort(problem, k):
    scores = problem[0]
    np.testing.assert_array_equal(topk(scores, k), np.argsort(-scores, 1, kind="stable")[:, :k])
    np.testing.assert_array_equal(topk(scores.T, k), np.argsort(-scores.T, 1, kind="stable")[:, :k])


def test_expand():
    np.testing.assert_array_equal(expand(np.array([4, 0, 7]), np.array([2, 0, 3])), [4, 5, 7, 8, 9])


def test_summary():
    result = summary(np.array([0, 3, 12, -1]), np.array([0, 0, 5, 9, 10, 40]))
    expected = {
        "i2t_r1": 100 / 3,
        "i2t_r5": 200 / 3,
        "i2t_r10": 200 / 3,
        "i2t_medr": 4.0,
        "i2t_meanr": 6.0,
        "t2i_r1": 100 / 3,
        "t2i_r5": 100 / 3,
        "t2i_r10": 200 / 3,
        "t2i_medr": 8.0,  # floor of 7, then counted from 1
        "t2i_meanr": 64 / 6 + 1,
        "rsum": 300.0,
    }
    assert result == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ValueError, match="zero queries"):
        recall([-1, -1], 1)


def test_folds_follow_the_captions():
    """With captions in random order, a fold has the captions of its images, not a row block."""
    rng = np.random.default_rng(2)
    image_of = rng.permutation(np.repeat(np.arange(20), 5))
    scores = rng.standard_normal((20, 100))
    result = evaluate(scores, image_of, Protocol(folds=4))
    folds = []
    for f in range(4):
        images = np.arange(5 * f, 5 * f + 5)
        captions = [c for c in range(100) if image_of[c] in images]
        folds.append(summary(*slow_ranks(scores[images][:, captions], image_of[captions] - 5 * f)))
    assert result == pytest.approx({key: np.mean([x[key] for x in folds]) for key in folds[0]})
    assert result["i2t_r1"] > evaluate(scores, image_of)["i2t_r1"]
    with pytest.raises(ValueError, match="3 equal folds"):
        evaluate(scores, image_of, Protocol(folds=3))


def test_named_protocols():
    rng = np.random.default_rng(3)
    images = rng.standard_normal((5000, 8)).astype(np.float32)
    captions = np.repeat(images, 5, 0) + rng.standard_normal((25000, 8)).astype(np.float32)
    one_k = evaluate_vectors(images, captions, protocol="coco_1k")
    folds = [
        evaluate(images[f : f + 1000] @ captions[5 * f : 5 * f + 5000].T, None, "f30k_1k")
        for f in range(0, 5000, 1000)
    ]
    assert one_k == pytest.approx({k: np.mean([fold[k] for fold in folds]) for k in one_k})
    for protocol, size in (("f30k_1k", 5000), ("coco_5k", 1000), ("coco_1k", 1000)):
        with pytest.raises(ValueError, match=f"{protocol} is defined on .* split has {size}"):
            evaluate_vectors(images[:size], captions[: 5 * size], protocol=protocol)
    with pytest.raises(
        ValueError, match="protocol must be 'full', 'f30k_1k', 'coco_1k' or 'coco_5k'"
    ):
        evaluate(np.zeros((2, 10)), None, "coco")


def test_streamed_evaluation_equals_the_matrix():
    rng = np.random.default_rng(4)
    images, captions = rng.standard_normal((30, 6)), rng.standard_normal((150, 6))
    for protocol in ("full", Protocol(folds=3)):
        expected = evaluate(images @ captions.T, None, protocol)
        assert evaluate_vectors(images, captions, None, protocol) == expected
        assert evaluate(torch.from_numpy(images @ captions.T), None, protocol) == expected


def test_metric_collects_by_index():
    g = torch.Generator().manual_seed(0)
    scores, image_of = torch.randn(12, 40, generator=g), torch.arange(40) % 12
    metric = RetrievalMetrics(image_of)
    assert (metric.higher_is_better, metric.is_differentiable) == (True, False)
    order = torch.randperm(12, generator=g)
    for part in order.split(5):
        metric.update(scores[part], part)
    metric.update(scores[order[:3]], order[:3])  # padding of a distributed sampler
    assert metric.compute() == evaluate(scores, image_of)
    assert metric.ranks is not None
    metric.reset()
    assert metric.ranks is None
    metric.update(scores[:11], torch.arange(11))
    with pytest.raises(ValueError, match="1 of 12 images are missing .rows 11."):
        metric.compute()


@pytest.mark.parametrize("new", [np.zeros, torch.zeros])
def test_one_buffer_may_hold_the_rows_of_every_update(new):
    """All rows were those of the last update."""
    metric, rows, index = RetrievalMetrics([0, 1, 2]), new((1, 3)), new((1,))
    index = index.astype(np.int64) if new is np.zeros else index.long()
    for image in range(3):
        rows[:], index[:] = 0, image
        rows[0, image] = 1
        metric.update(rows, index)
    assert metric.compute()["rsum"] == 600


def test_metric_with_relevance_and_an_image_without_captions():
    g = torch.Generator().manual_seed(1)
    scores, image_of = torch.randn(6, 9, generator=g), [0, 0, 0, 0, 1, 2, 2, 4, 3]
    relevance = torch.rand(9, 6, generator=g).numpy()
    metric = RetrievalMetrics(image_of, num_images=6, relevance=relevance)
    metric.update(scores, torch.arange(6))
    result = metric.compute()
    assert result == evaluate(scores, image_of, relevance=relevance)
    assert {"i2t_ncs_10", "t2i_ncs_out_1", "i2t_sr_out_5", "t2i_ndcg_5"} <= result.keys()
    for same in (relevance.tolist(), torch.from_numpy(relevance)):
        metric = RetrievalMetrics(image_of, num_images=6, relevance=same)
        metric.update(scores, torch.arange(6))
        assert metric.compute() == pytest.approx(result)


def test_metric_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="protocol must be 'full', .* got "):
        RetrievalMetrics([0, 1], protocol="coco")
    metric = RetrievalMetrics([0, 1])
    with pytest.raises(ValueError, match="images x captions"):
        metric.update(torch.zeros(1, 3), torch.tensor([0]))
    with pytest.raises(ValueError, match="0..1"):
        metric.update(torch.zeros(1, 2), torch.tensor([2]))
    with pytest.raises(ValueError, match=r"image_index must be \(I,\), got \(2, 1\)"):
        metric.update(torch.rand(2, 1), torch.tensor([[0], [1]]))
    with pytest.raises(ValueError, match="image_index must hold whole numbers, got torch.float32"):
        metric.update(torch.zeros(1, 2), torch.tensor([0.5]))
    with pytest.raises(ValueError, match="2 of 2 images"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics: compute before update
        metric.compute()


def _process(rank, folder, scores, image_of):
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    mine = [[0, 2, 4, 6], [1, 3, 5, 0]][rank]  # 7 images on 2 processes: image 0 comes twice
    metric = RetrievalMetrics(image_of)
    for part in torch.tensor(mine).split(3):
        metric.update(scores[part], part)
    (folder / f"{rank}.json").write_text(json.dumps(metric.compute()))
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    g = torch.Generator().manual_seed(2)
    scores, image_of = torch.randn(7, 30, generator=g), torch.arange(30) % 7
    torch.multiprocessing.spawn(_process, (tmp_path, scores, image_of), nprocs=2)
    expected = evaluate(scores, image_of)
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)] == [
        expected
    ] * 2


@pytest.mark.parametrize("kind", [">f4", ">f8", np.longdouble])
def test_scores_of_any_float_are_ranked(kind):
    scores = np.random.default_rng(0).normal(size=(4, 20)).astype(np.float32)
    right, found = ranks(scores), ranks(scores.astype(kind))
    for a, b in zip(right, found, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_indices_of_any_whole_number_collect_rows(kind):
    scores = torch.randn(3, 15, generator=torch.Generator().manual_seed(0))
    metrics = RetrievalMetrics(np.arange(15) // 5)
    for rows in (torch.tensor([2, 0]), torch.tensor([1])):
        assert metrics(scores[rows].numpy(), rows.to(kind)) is None  # as torchmetrics are called
    assert metrics.compute() == evaluate(scores.numpy())


def test_what_does_not_fit_a_split_fails_before_the_epoch():
    own = np.arange(15) // 5
    with pytest.raises(ValueError, match="protocol coco_1k is defined on 5000 images"):
        RetrievalMetrics(own, protocol="coco_1k")
    with pytest.raises(ValueError, match=r"relevance must be captions x images, \(15, 3\), got"):
        RetrievalMetrics(own, relevance=np.zeros((3, 15)))
    for value, said in ((-1.0, "negative"), (np.nan, "NaN")):
        with pytest.raises(ValueError, match=f"relevance of caption 0 holds {said}"):
            RetrievalMetrics(own, relevance=np.full((15, 3), value))
    with pytest.raises(ValueError, match="folds must be at least 1, got 0"):
        RetrievalMetrics(own, protocol=Protocol(folds=0))
