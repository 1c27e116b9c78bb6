import json

import numpy as np
import pytest
import torch
from goldens_path import case, read_npz

from itm.app.splits import split_codes
from itm.data.split import Split
from itm.metrics.eccv import Judgements, evaluate_eccv, judge, load_tables
from itm.metrics.pmrp import category_codes, pmrp
from itm.metrics.ranking import topk
from itm.metrics.retrieval import Protocol, evaluate
from itm.metrics.semantic import ncs, ndcg, related_images, semantic_recall

KS = (1, 5, 10, 20, 30)


# NCS, semantic recall, nDCG: the published numbers -----------------------------------------------


@pytest.fixture(scope="module")
def golden():
    folder = case("metrics/ncs")
    arrays = read_npz(folder / "inputs.npz")
    results = json.loads((folder / "expected.json").read_text())["results"]
    return arrays["sims"], arrays["relevance"], results


def compare(mine, name, expected, scale=1.0):
    for direction in ("i2t", "t2i"):
        for k in KS:
            value = expected[direction][str(k)]
            assert mine[f"{direction}_{name}_{k}"] * scale == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("related", [1, 2, 3])
def test_golden_recall(golden, own, related):
    scores, relevance, results = golden
    name = "sr" if own else "sr_out"
    for published, kind in (("recall", "recall"), ("vse_recall", "any")):
        expected = results[f"include_anns={own}|M={related}|{published}"]
        mine = semantic_recall(scores, relevance, None, KS, related, own, kind)
        compare(mine, name, {d: expected[d]["hard"] for d in expected})
    mine = semantic_recall(scores, relevance, None, KS, related, own, "soft")
    for direction, items in (("i2t", 5 * related), ("t2i", related)):
        for k in KS:  # the published value is divided by the number of relevant items once more
            value = expected[direction]["soft"][str(k)] * items
            assert mine[f"{direction}_{name}_{k}"] == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("own", [True, False])
def test_golden_ncs(golden, own):
    scores, relevance, results = golden
    expected = results[f"include_anns={own}|M=1|recall"]
    name = "ncs" if own else "ncs_out"
    compare(ncs(scores, relevance, None, KS, own), name, {d: expected[d]["NCS"] for d in expected})
    weighted = ncs(scores, relevance, None, KS, own, weighted=True)
    compare(weighted, name, results[f"include_anns={own}|softer_order"])


def test_golden_ndcg(golden):
    scores, relevance, results = golden
    mine = ndcg(scores, relevance, None, KS, "exponential")
    for direction in ("i2t", "t2i"):
        for k in KS:
            value = results["ndcg_exp_gain"][f"{direction}@{k}"]
            assert mine[f"{direction}_ndcg_{k}"] / 100 == pytest.approx(value, abs=1e-11)


def test_golden_related_images(golden):
    folder = case("metrics/ncs")
    expected = read_npz(folder / "expected_related.npz")["related_images"]
    np.testing.assert_array_equal(related_images(golden[1], related=4), expected)


# The same definitions as plain loops, where the published code cannot go --------------------------


def slow(scores, relevance, own, k, include_own, related, depth):
    """Compute NCS, semantic recall (three kinds) and linear nDCG at k in plain Python."""
    n, m = scores.shape

    def ranked(values):
        return sorted(range(len(values)), key=lambda j: -values[j])

    closest = {}
    for i in range(n):
        votes = {}
        for c in range(m):
            if own[c] == i:
                for j in ranked(relevance[c])[:depth]:
                    if include_own or j != i:
                        votes[j] = votes.get(j, 0) + relevance[c, j]
        closest[i] = sorted(votes, key=lambda j: (-votes[j], j))[:related]

    image, gallery = [i for i in range(n) if i in own], {"i2t": own, "t2i": np.arange(n)}
    sides = {
        "i2t": [(i, scores[i], relevance[:, i]) for i in image],
        "t2i": [(own[c], scores[:, c], relevance[c]) for c in range(m)],
    }
    result = {}
    for direction, queries in sides.items():
        found = {"ncs": [], "recall": [], "any": [], "soft": [], "ndcg": []}
        for i, values, gain in queries:
            allowed = [g for g in range(len(values)) if include_own or gallery[direction][g] != i]
            retrieved = [g for g in ranked(values) if g in allowed][:k]
            ideal = [g for g in ranked(gain) if g in allowed][:k]
            best = sum(gain[g] for g in ideal)
            found["ncs"].append(sum(gain[g] for g in retrieved) / best if best else 0)
            relevant = [g for g in range(len(values)) if gallery[direction][g] in closest[i]]
            hits = [g for g in retrieved if g in relevant]
            found["recall"].append(len(hits) / len(relevant) if relevant else 0)
            found["any"].append(float(bool(hits)))
            mass = sum(gain[g] for g in relevant)
            found["soft"].append(sum(gain[g] for g in hits) / mass if mass else 0)
            places = np.log2(np.arange(k) + 2)
            top = sum(gain[g] / p for g, p in zip(ranked(values)[:k], places, strict=False))
            most = sum(gain[g] / p for g, p in zip(ranked(gain)[:k], places, strict=False))
            found["ndcg"].append(top / most if most else 0)
        result[direction] = {name: 100 * np.mean(x) for name, x in found.items()}
    return result


@pytest.mark.parametrize("include_own", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_against_loops(seed, include_own):
    """Include ties, irrelevant queries, images without captions and short galleries."""
    rng = np.random.default_rng(seed)
    n, m = [(1, 1), (1, 3), (2, 2), (4, 9), (7, 15), (6, 40)][seed]
    own = rng.integers(0, n, m)
    scores = rng.integers(0, 6, (n, m)).astype(float)
    relevance = rng.integers(0, 4, (m, n)).astype(float)
    relevance[rng.random(m) < 0.2] = 0
    name = "" if include_own else "_out"
    for k in (1, 3, 12):
        for related, depth in ((1, 2), (3, 30)):
            expected = slow(scores, relevance, own, k, include_own, related, depth)
            mine = ncs(scores, relevance, own, (k,), include_own)
            values = {"ncs": (mine, f"ncs{name}")}
            for kind in ("recall", "any", "soft"):
                recall = semantic_recall(
                    scores, relevance, own, (k,), related, include_own, kind, depth
                )
                values[kind] = (recall, f"sr{name}")
            values["ndcg"] = (ndcg(scores, relevance, own, (k,)), "ndcg")
            for metric, (result, key) in values.items():
                for d in ("i2t", "t2i"):
                    assert result[f"{d}_{key}_{k}"] == pytest.approx(expected[d][metric], abs=1e-7)


def test_folds_use_their_own_block():
    rng = np.random.default_rng(0)
    image_of = rng.permutation(np.repeat(np.arange(12), 5))
    scores, relevance = rng.standard_normal((12, 60)), rng.random((60, 12))
    result = evaluate(scores, image_of, Protocol(folds=3), relevance)
    folds = []
    for f in (0, 4, 8):
        inside = (image_of >= f) & (image_of < f + 4)
        block, values = scores[f : f + 4][:, inside], relevance[inside][:, f : f + 4]
        folds.append(ncs(block, values, image_of[inside] - f, include_own=False))
    for key in folds[0]:
        assert result[key] == pytest.approx(np.mean([fold[key] for fold in folds]))
    half = evaluate(torch.from_numpy(scores).bfloat16(), image_of, relevance=relevance)
    assert half.keys() == result.keys()


def test_perfect_retrieval():
    relevance = np.random.default_rng(1).random((20, 4))
    result = evaluate(relevance.T.copy(), relevance=relevance)
    for key, value in result.items():
        if "ncs" in key or "ndcg" in key:
            assert value == pytest.approx(100)


def test_bad_input():
    scores, relevance = np.zeros((2, 10)), np.zeros((10, 2))
    for call in (ncs, ndcg, semantic_recall, lambda s, r: evaluate(s, relevance=r)):
        with pytest.raises(ValueError, match="captions x images"):
            call(scores, relevance.T)
    with pytest.raises(ValueError, match="'recall', 'any' or 'soft'"):
        semantic_recall(scores, relevance, kind="hard")
    with pytest.raises(ValueError, match="'linear' or 'exponential'"):
        ndcg(scores, relevance, gain="log")


# PMRP ---------------------------------------------------------------------------------------------


def test_golden_pmrp():
    folder = case("metrics/pmrp")
    data = read_npz(folder / "inputs.npz")
    expected = json.loads((folder / "expected.json").read_text())["results"]
    codes, annotated = data["codes"], data["has_annotation"]
    result = pmrp(data["sims"], codes, annotated=annotated)
    for d in ("i2t", "t2i"):
        assert result[f"{d}_pmrp"] == pytest.approx(expected[d]["pmrp"], abs=1e-9)
        assert result[f"{d}_pmr1"] == pytest.approx(expected[d]["pmr1"], abs=1e-9)
        for z in (0, 1, 2):
            one = pmrp(data["sims"], codes, annotated=annotated, thresholds=(z,))
            assert one[f"{d}_pmrp"] == pytest.approx(expected[d]["rp_per_threshold"][z], abs=1e-9)
    # The package keeps images without annotations in the galleries and always uses threshold 2.
    unknown = np.where(annotated[:, None], codes, np.nan)
    for own in (True, False):
        result = pmrp(data["sims"], unknown, thresholds=(2,), own_is_positive=own)
        for d, value in expected[f"eccv_package_threshold2_omit_own={not own}"].items():
            assert result[f"{d}_pmrp"] / 100 == pytest.approx(value, abs=1e-9)


def slow_pmrp(scores, codes, query_image, item_image, own):
    total = []
    for z in (0, 1, 2):
        for values, i in zip(scores, query_image, strict=True):
            good = [np.abs(codes[i] - codes[j]).sum() <= z and (own or i != j) for j in item_image]
            order = sorted(range(len(values)), key=lambda g: -values[g])
            if any(good):
                total.append(np.mean([good[g] for g in order[: sum(good)]]))
    return 100 * np.mean(total)


@pytest.mark.parametrize("own", [True, False])
def test_pmrp_against_loops(own):
    rng = np.random.default_rng(5)
    image_of = rng.integers(0, 8, 30)
    scores = rng.integers(0, 5, (8, 30)).astype(np.float32)  # many ties across the cut
    codes = rng.integers(0, 2, (8, 4))
    result = pmrp(scores, codes, image_of, own_is_positive=own)
    images = np.arange(8)
    assert result["i2t_pmrp"] == pytest.approx(slow_pmrp(scores, codes, images, image_of, own))
    assert result["t2i_pmrp"] == pytest.approx(slow_pmrp(scores.T, codes, image_of, images, own))
    folds = pmrp(scores[:, image_of < 4][:4], codes[:4], image_of[image_of < 4])
    later = pmrp(scores[:, image_of >= 4][4:], codes[4:], image_of[image_of >= 4] - 4)
    both = pmrp(scores, codes, image_of, Protocol(folds=2))
    assert both["t2i_pmrp"] == pytest.approx((folds["t2i_pmrp"] + later["t2i_pmrp"]) / 2)


def test_pmrp_refuses_nan_and_wrong_codes():
    with pytest.raises(ValueError, match="codes and annotated must hold one row per image .2."):
        pmrp(np.zeros((2, 10)), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="NaN"):
        pmrp(np.full((2, 10), np.nan), np.zeros((2, 4)))


def test_category_codes(tmp_path):
    pairs = [(7, 1), (7, 4), (9, 2), (7, 4), (5, 3)]
    annotations = [{"image_id": i, "category_id": c} for i, c in pairs]
    (tmp_path / "i.json").write_text(json.dumps({"annotations": annotations}))
    codes = category_codes(tmp_path / "i.json", [9, 8, 7])
    np.testing.assert_array_equal(codes, [[0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]])


# ECCV Caption, CxC --------------------------------------------------------------------------------


def test_golden_eccv():
    pytest.importorskip("eccv_caption")
    folder = case("metrics/eccv")
    golden, tables = json.loads((folder / "expected.json").read_text()), load_tables()
    rng = np.random.default_rng(0)
    images = rng.standard_normal((5000, 16))
    captions = np.repeat(images, 5, axis=0) + 1.2 * rng.standard_normal((25000, 16))
    scores = images @ captions.T
    np.testing.assert_array_equal(tables.image_ids[:3], golden["first_ids"]["images"])
    np.testing.assert_array_equal(tables.caption_ids[:6], golden["first_ids"]["captions"])
    result = evaluate_eccv(scores, tables)
    for name, values in golden["results"].items():
        for direction, value in values.items():
            assert result[f"{direction}_{name}"] / 100 == pytest.approx(value, abs=1e-9)

    queries = read_npz(folder / "per_query.npz")
    for direction, values, ids in (
        ("i2t", scores, tables.image_ids),
        ("t2i", scores.T, tables.caption_ids),
    ):
        judged = tables.judgements["eccv"][direction]
        np.testing.assert_array_equal(ids[judged.queries], queries[f"{direction}_query_ids"])
        result = judge(topk(values[judged.queries], 50), judged)
        for mine, key in (("map_at_r", "ap_at_r"), ("rprecision", "rprecision"), ("r1", "r1")):
            np.testing.assert_allclose(result[mine], queries[f"{direction}_{key}"], atol=1e-9)


def test_judge_agrees_with_the_package():
    """Evaluate another random matrix in another column order, which the ids must resolve."""
    package = pytest.importorskip("eccv_caption").Metrics()
    rng = np.random.default_rng(1)
    tables = load_tables(caption_ids=rng.permutation(load_tables().caption_ids))
    images, captions = (rng.standard_normal((n, 4), np.float32) for n in (5000, 25000))
    captions += images[tables.caption_image]
    sides = {
        "i2t": (images, captions, tables.image_ids, tables.caption_ids),
        "t2i": (captions, images, tables.caption_ids, tables.image_ids),
    }
    for name in ("eccv", "cxc"):
        for d, (query, item, query_ids, item_ids) in sides.items():
            judged = tables.judgements[name][d]
            lists = topk(query[judged.queries] @ item.T, 50)
            ids = query_ids[judged.queries].tolist()
            given = {d: dict(zip(ids, item_ids[lists].tolist(), strict=True))}
            mine = {key: value.mean() for key, value in judge(lists, judged).items()}
            if name == "eccv":
                expected = {key: x[d] for key, x in package.eccv_metrics(given, d).items()}
                assert {f"eccv_{key}": mine[key] for key in ("map_at_r", "rprecision", "r1")} == (
                    pytest.approx(expected, abs=1e-12)
                )
            else:
                for k in (1, 5, 10):
                    value = package.cxc_recalls(given, d, K=k)[d]
                    assert mine[f"r{k}"] == pytest.approx(value, abs=1e-12)


def test_judge_by_hand():
    """Of two queries, the second has a right item outside the gallery, which counts in R."""
    items = np.array([[3, 1, 0, 2], [2, 3, 1, 0]])
    judged = Judgements(np.array([0, 1]), np.array([[0, 3], [0, 0], [1, 1]]), np.array([2, 3]))
    result = judge(items, judged)
    np.testing.assert_array_equal(result["r1"], [1, 0])
    np.testing.assert_array_equal(result["r5"], [1, 1])
    np.testing.assert_allclose(result["rprecision"], [1 / 2, 1 / 3])
    np.testing.assert_allclose(result["map_at_r"], [1 / 2 * 1, 1 / 3 * 1 / 3])


def test_eccv_errors(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="data folder of eccv-caption"):
        load_tables(tmp_path)
    monkeypatch.setattr("itm.metrics.eccv.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install eccv-caption"):
        load_tables()


def test_eccv_sizes():
    pytest.importorskip("eccv_caption")
    with pytest.raises(ValueError, match="5000 images x 25000"):
        evaluate_eccv(np.zeros((1000, 5000)))
    with pytest.raises(ValueError, match="not in COCO 5K test, first 1"):
        load_tables(caption_ids=[770337, 1])


SCORES = np.array([[0.9, 0.1, 0.2], [0.3, 0.8, 0.1], [0.2, 0.1, 0.7]])
OWN = [0, 1, 2]


@pytest.mark.parametrize("kind", ["u1", "u2", "i8", "f4", "f2", ">f8", list, torch.tensor])
def test_the_type_of_relevance_changes_nothing(kind):
    relevance = np.array([[3, 0, 1], [0, 3, 0], [1, 0, 3]])
    given = relevance.astype(kind) if isinstance(kind, str) else kind(relevance.tolist())
    expected = evaluate(SCORES, OWN, relevance=relevance.astype(float))
    assert evaluate(SCORES, OWN, relevance=given) == pytest.approx(expected)
    for measure in (ncs, ndcg, semantic_recall):
        found = measure(torch.from_numpy(SCORES), given, OWN, ks=(1, 2))
        assert found == pytest.approx(measure(SCORES, relevance.astype(float), OWN, ks=(1, 2)))
    related = related_images(given, OWN, include_own=False)
    np.testing.assert_array_equal(related, related_images(relevance, OWN, include_own=False))


@pytest.mark.parametrize(
    ("value", "said"), [(-0.1, "negative values: graded"), (np.nan, "NaN"), (np.inf, "infinite")]
)
def test_relevance_that_has_no_meaning_is_refused(value, said):
    relevance = np.eye(3)
    relevance[1, 2] = value
    for measure in (evaluate, ncs, ndcg, semantic_recall):
        with pytest.raises(ValueError, match=f"relevance of caption 1 holds .*{said}"):
            measure(SCORES, relevance=relevance, caption_image=OWN)
    with pytest.raises(ValueError, match=f"relevance of caption 1 holds .*{said}"):
        related_images(relevance, OWN)


def test_pmrp_counts_images_and_refuses_numbers_that_are_not_cocos(tmp_path, capsys):
    def split(*ids):
        images = len(ids)
        rows, captions = np.arange(5 * images) // 5, ["a"] * (5 * images)
        features = np.zeros((images, 1, 2), np.float32)
        return Split("test", tmp_path, features, np.arange(images), captions, rows, list(ids))

    file = tmp_path / "instances.json"
    found = [{"image_id": n, "category_id": 1 + n % 3} for n in (391895, 7, 0, 1)]
    file.write_text(json.dumps({"annotations": found}))
    assert split_codes(file, split("391895", "COCO_val2014_000000000007.jpg")).any(1).all()
    assert capsys.readouterr().out == ""
    assert split_codes(file, split("391895", "9000")).any(1).tolist() == [True, False]
    assert "pmrp: 1 of 2 images of test have categories in instances" in capsys.readouterr().out
    for ids, message in (
        (("a_391895.jpg", "b_391895.jpg"), "'a_391895.jpg' and 'b_391895.jpg' .* end in 391895"),
        (("0", "1"), r"seems to hold numbers of rows \(0 to 1\), expected COCO's number"),
        (("5000", "6000"), "has no categories of the images of split test"),
    ):
        with pytest.raises(ValueError, match=message):
            split_codes(file, split(*ids))
