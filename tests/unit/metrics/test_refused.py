"""Values that would give a plausible number with another meaning are refused."""

import json

import numpy as np
import pytest

from itm.metrics.eccv import check_order, load_tables
from itm.metrics.pmrp import category_codes, pmrp
from itm.metrics.protocols import Protocol, check_size
from itm.metrics.rerank import METHODS, reranked
from itm.metrics.semantic import related_images
from itm.metrics.significance import compare, hits

SCORES = np.random.default_rng(0).standard_normal((4, 8))
OWN = np.repeat(np.arange(4), 2)
CODES = np.array([[1, 0, 1], [1, 1, 0], [0, 0, 0], [1, 1, 1]])


def test_numbers_of_objects_are_no_categories():
    """A category counted twice would make a distance negative, and every item plausible."""
    counts = CODES * [3, 2, 1]
    with pytest.raises(ValueError, match="codes > 0"):
        pmrp(SCORES, counts, OWN)
    assert pmrp(SCORES, counts > 0, OWN) == pmrp(SCORES, CODES, OWN)
    unknown = np.where(CODES.any(1, keepdims=True), CODES, np.nan)
    assert pmrp(SCORES, unknown, OWN)["i2t_pmrp"] > 0  # NaN is an unknown code


def test_rows_are_no_mask_of_annotated_images():
    with pytest.raises(ValueError, match="a mask in place of rows"):
        pmrp(SCORES, CODES, OWN, annotated=np.array([0, 1, 2, 3]))
    mask = np.array([1, 1, 0, 1])
    assert pmrp(SCORES, CODES, OWN, annotated=mask) == pmrp(SCORES, CODES, OWN, annotated=mask > 0)


@pytest.mark.parametrize("ids", [["7", "9"], ["COCO_val2014_7.jpg", "9.jpg"], [7, 7], [[7, 9]]])
def test_ids_that_match_no_annotation_are_refused(ids, tmp_path):
    """They gave codes of 0, equal for all images, so that every item was plausible."""
    annotations = [{"image_id": i, "category_id": 3} for i in (7, 9)]
    (tmp_path / "i.json").write_text(json.dumps({"annotations": annotations}))
    with pytest.raises(ValueError, match="image_ids must hold COCO's number of each image"):
        category_codes(tmp_path / "i.json", ids)
    codes = category_codes(tmp_path / "i.json", [7.0, 9.0])
    np.testing.assert_array_equal(codes, [[0, 0, 1]] * 2)
    annotations[1]["image_id"] = "9"
    (tmp_path / "i.json").write_text(json.dumps({"annotations": annotations}))
    with pytest.raises(ValueError, match="i.json .*image_id must be a whole number, got '9'"):
        category_codes(tmp_path / "i.json", [7, 9])


def test_codes_without_a_category_are_refused():
    with pytest.raises(ValueError, match=r"codes \(4, 3\) are 0 everywhere"):
        pmrp(SCORES, np.zeros_like(CODES), OWN)
    with pytest.raises(ValueError, match="no image has a category"):
        pmrp(SCORES, CODES, OWN, annotated=np.array([0, 0, 1, 0]))


def write_tables(folder, **changed):
    """Tables of eccv-caption for two images of two captions each."""
    own = {"11": [1], "12": [1], "21": [2], "22": [2]}
    tables = {"original_caption_to_image": own}
    for name in ("eccv", "cxc"):
        tables |= {f"{name}_image_to_caption": {"1": [11, 12, 21]}, f"{name}_caption_to_image": own}
    for name, table in {**tables, **changed}.items():
        (folder / f"{name}.json").write_text(json.dumps(table))


def test_tables_that_judge_no_query_are_refused(tmp_path):
    """The means had been NaN, as with the tables of the two directions in each other's place."""
    write_tables(tmp_path)
    assert load_tables(tmp_path, [11, 12, 21, 22]).judgements["eccv"]["i2t"].size == [3]
    with pytest.raises(ValueError, match="image_to_caption.json judges no query of these 1"):
        load_tables(tmp_path, [21, 22])
    write_tables(tmp_path, eccv_caption_to_image={"1": [11, 12]})
    with pytest.raises(ValueError, match="eccv_caption_to_image.json judges no query of these 4"):
        load_tables(tmp_path, [11, 12, 21, 22])


def test_a_part_of_the_images_is_told(tmp_path):
    write_tables(tmp_path)
    tables = load_tables(tmp_path, [11, 12, 21, 22])
    assert check_order(tables, ["COCO_1.jpg", "COCO_2.jpg"])
    for numbers in ([1], [1, 2, 3]):
        with pytest.raises(ValueError, match=f"split has {len(numbers)} images, .* Caption 2: g"):
            check_order(tables, [f"COCO_{number}.jpg" for number in numbers])
    with pytest.raises(ValueError, match="image 0 is COCO_2.jpg, but 1 in the tables"):
        check_order(tables, ["COCO_2.jpg", "COCO_1.jpg"])


def test_a_relevance_is_a_matrix():
    with pytest.raises(ValueError, match=r"captions x images matrix, got \(3,\)"):
        related_images(np.ones(3))


def test_a_protocol_of_any_number_of_captions_says_so():
    with pytest.raises(ValueError, match="on 5 images and any number of captions, but .* 4 and 20"):
        check_size(Protocol(5), 4, 20)


@pytest.mark.parametrize("right", ["11", [11.5], [True], {"11": 1}])
def test_an_id_is_not_read_digit_by_digit(right, tmp_path):
    write_tables(tmp_path, eccv_image_to_caption={"1": right})
    with pytest.raises(ValueError, match="eccv_image_to_caption.json must hold lists of ids"):
        load_tables(tmp_path, [11, 12, 21, 22])


def test_a_mean_over_no_query_is_refused():
    with pytest.raises(ValueError, match="none has one"):
        pmrp(SCORES, np.eye(4), OWN, thresholds=(0,), own_is_positive=False)


def test_a_caption_without_an_answer_is_no_hit():
    ranks = {"i2t": np.array([0, 3]), "t2i": np.array([0, -1, 7]), "image": np.array([0, 0, 1])}
    np.testing.assert_array_equal(hits(ranks), [[1, 1, 1, 1, 1, 1], [0, 1, 1, 0, 0, 1]])
    answered = {**ranks, "t2i": np.array([0, 9, 7])}
    assert compare([ranks], [answered], samples=20).value == pytest.approx(-100 / 3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("beta", [0.0, -1.0, np.nan, np.inf])
def test_an_inverse_temperature_is_a_number_above_0(method, beta):
    with pytest.raises(ValueError, match="beta must be above 0, got"):
        reranked(SCORES, method, beta)


@pytest.mark.parametrize("method", METHODS)
def test_pairs_without_a_score_are_not_added_up(method):
    """They gave NaN, and the message looked for zero vectors."""
    scores = SCORES.copy()
    scores[:, 0] = -np.inf
    if method == "mutual_rank":  # reads places only
        assert np.isfinite(reranked(scores, method).i2t).all()
        return
    with pytest.raises(ValueError, match=f"rerank={method} adds up .* infinite: give a score"):
        reranked(scores, method)
