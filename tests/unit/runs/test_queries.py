"""Queries of an evaluation: named by ids, ranks from 1, the worst ones first."""

import csv
import io
from pathlib import Path

import numpy as np

from itm.data.layout import Split
from itm.metrics.retrieval import ranks
from itm.runs.queries import caption_names, query_table, worst_queries

OWNER = np.array([0, 0, 1, 2, 2, 2])
SCORES = np.array([[3, 0, 1, 0, 0, 2], [5, 4, 3, 2, 1, 0], [0, 1, 2, 9, 8, 7]], np.float32)


def split(ids=("x", "y", "z")):
    captions = [f"caption {i}" for i in range(6)]
    features = np.zeros((3, 1, 2))
    return Split("test", Path("d"), features, np.arange(3), captions, OWNER, list(ids))


def test_captions_go_by_image_and_place():
    assert caption_names(split()) == ["x#1", "x#2", "y#1", "z#1", "z#2", "z#3"]


def test_the_table_says_what_came_first_and_where_the_right_item_came():
    table = query_table(SCORES, split(), ranks(SCORES, OWNER))
    rows = list(csv.DictReader(io.StringIO(table)))
    found = [(r["direction"], r["query"], int(r["rank"]), r["right"], r["first"]) for r in rows]
    # By hand: image y's own caption is third; captions x#1, x#2 find y first.
    assert found == [
        ("i2t", "x", 1, "x#1", "x#1"), ("i2t", "y", 3, "y#1", "x#1"), ("i2t", "z", 1, "z#1", "z#1"),
        ("t2i", "x#1", 2, "x", "y"), ("t2i", "x#2", 3, "x", "y"), ("t2i", "y#1", 1, "y", "y"),
        ("t2i", "z#1", 1, "z", "z"), ("t2i", "z#2", 1, "z", "z"), ("t2i", "z#3", 1, "z", "z"),
    ]  # fmt: skip
    assert rows[3]["caption"] == "caption 0" and float(rows[3]["score"]) == 5


def test_the_worst_queries_come_first_and_right_ones_are_left_out():
    found = worst_queries(SCORES, split(), ranks(SCORES, OWNER), 5, top=2)
    assert [(q.direction, q.name, q.rank) for q in found] == [
        ("i2t", "y", 3), ("t2i", "x#2", 3), ("t2i", "x#1", 2),
    ]  # fmt: skip
    assert found[0].retrieved == [0, 1] and found[0].scores == [5, 4] and found[0].right == 2
    assert found[1].retrieved == [1, 2] and found[1].right == 0


def test_an_image_without_captions_is_no_query():
    owner = np.array([0, 0, 0, 2, 2, 2])
    lonely = split()
    lonely = Split(**{**vars(lonely), "caption_image": owner})
    table = query_table(SCORES, lonely, ranks(SCORES, owner))
    assert "i2t,y," not in table and "i2t,x," in table


def test_a_page_of_failures_shows_pictures_and_escapes(tmp_path):
    from PIL import Image

    from itm.data.pictures import Pictures
    from itm.visual.failures_page import failures_page

    evil = split(ids=("x", "<b>y", "z"))
    Image.new("RGB", (8, 8), "red").save(tmp_path / "x.png")
    pictures = Pictures(evil, tmp_path)
    found = worst_queries(SCORES, evil, ranks(SCORES, OWNER), 5, top=2)
    page = failures_page(found, evil, pictures, "Worst", "<script>")
    assert "<script>" not in page and "<b>y" not in page and "&lt;b&gt;y" in page
    assert "its best caption has rank 3 of 6" in page and page.count("<img") == 2
    assert 'content="made by itm.evaluate"' in page


def test_the_lists_have_the_precision_of_the_ranks():
    scores = SCORES.astype(np.float64) * 1e-9 + 0.5  # equal in float32
    rows = list(csv.DictReader(io.StringIO(query_table(scores, split(), ranks(scores, OWNER)))))
    assert all((row["rank"] == "1") == (row["right"] == row["first"]) for row in rows)
