"""Every value of `{split}_phrases.jsonl` is checked, with file and line."""

import dataclasses
import json
import math

import numpy as np
import pytest

from itm.data.layout import Split
from itm.phrases.files import entity_boxes, entity_phrases, read_phrases

BOXES = np.tile([[0.1, 0.1, 0.5, 0.5], [0, 0, 1, 1]], (4, 1, 1))
GOOD = {
    "image": 1,
    "caption": 2,
    "phrase": "a dog",
    "span": [0, 2],
    "boxes": [[0.1, 0.1, 0.5, 0.5]],
}


def split_in(folder, boxes=BOXES, **options):
    captions = ["a dog runs"] * 8
    features, images = np.zeros((4, 2, 3), np.float32), np.arange(8) // 2
    options = {"boxes": boxes, **options}
    return Split("test", folder, features, np.arange(4), captions, images, **options)


def read(folder, entry, **options):
    text = entry if isinstance(entry, str) else json.dumps(entry)
    (folder / "test_phrases.jsonl").write_text(f"{json.dumps(GOOD)}\n{text}\n")
    return read_phrases(None, split_in(folder, **options))


def test_good_lines(tmp_path):
    first, second = read(tmp_path, {**GOOD, "type": "animals", "boxes": [[0, 0, 1, 1.0000002]]})
    assert first.box == (0.1, 0.1, 0.5, 0.5) and second.type == "animals"
    plain = {key: GOOD[key] for key in ("image", "phrase", "boxes")}
    assert read(tmp_path, plain)[1].caption == ()
    assert read(tmp_path, {**plain, "caption": None, "span": None, "phrase": "狗"})[1].text == "狗"
    assert len(read(tmp_path, GOOD)) == 2  # the same phrase may be said twice


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(({"image": v}, "image=.* must be a row from 0 to 3")
          for v in (-1, 4, 1.0, True, "1", None, math.nan, math.inf)),
        *(({"caption": v}, "caption=.* must be a row from 0 to 7") for v in (-1, 8, "x", 2.0, [])),
        ({"caption": 7}, "caption=7 describes image 3, not 1"),
        *(({"phrase": v}, "phrase=.* must be words")
          for v in (5, None, "", "  ", "\u00a0\u2003", "\u200b\ufeff", ["a"])),
        *(({"span": v}, "span=.* must be \\[start, stop\\]")
          for v in ([2, 0], [0, 0], [0, 4], [90, 99], [1], [0, 1, 2], ["a", "b"], [-2, -1], 3,
                    [0.0, 2.0], [False, True], "01")),
        ({"caption": None}, "span=.* must be"),  # a span without its caption
        *(({"type": v}, "type=.* must be a string") for v in (5, None, ["x"])),
        *(({"boxes": v}, "boxes=.* must be \\[\\[x1")
          for v in ([], {}, "a", [0.1, 0.1, 0.5, 0.5], [[0, 0, 1]], [[math.nan, 0, 1, 1]],
                    [[0, 0, math.inf, 1]], [["a"] * 4], [[True] * 4], [[0, 0, 10**400, 1]])),
        ({"boxes": [[0.5, 0.5, 0.1, 0.1]]}, "ends before it begins"),
        ({"boxes": [[0.5, 0.5, 0.499, 0.6]]}, "must be x1 <= x2"),
        ({"boxes": [[10, 10, 300, 200]]}, "are in pixels, the region boxes in fractions"),
        ({"boxes": [[-0.5, 0, 1, 1]]}, "reaches out of 0 to 1"),
        *(({k: "x"}, f"unknown key '{k}'; expected ") for k in ("bbox", "typ", "Image", "id")),
    ],
)  # fmt: skip
def test_wrong_values_are_named_with_file_and_line(tmp_path, change, message):
    with pytest.raises(ValueError, match=rf"test_phrases\.jsonl:2: .*{message}"):
        read(tmp_path, {**GOOD, **change})


@pytest.mark.parametrize("text", ["", "{", "[]", "5", '{"image": 1}', "[" * 100_000])
def test_wrong_lines_are_named(tmp_path, text):
    with pytest.raises(ValueError, match=r"test_phrases\.jsonl:2: .*JSON object"):
        read(tmp_path, text)


def test_units_are_those_of_the_regions(tmp_path):
    with pytest.raises(ValueError, match="are in fractions, the region boxes in pixels"):
        read(tmp_path, GOOD, boxes=BOXES * 100)
    (tmp_path / "test_phrases.jsonl").write_bytes(b'{"phrase": "caf\xe9"}')
    with pytest.raises(ValueError, match=r"test_phrases\.jsonl:1: not UTF-8"):
        read_phrases(None, split_in(tmp_path))


def test_captions_are_rows_of_the_file(tmp_path):
    """A protocol that keeps some captions does not move a phrase to another one."""
    rows = np.array([0, 1, 2, 4, 6, 7, 8, 9])  # the file has ten lines
    assert read(tmp_path, {**GOOD, "caption": 4}, caption_row=rows)[1].span == (0, 2)
    with pytest.raises(ValueError, match="caption=3 is not among the captions"):
        read(tmp_path, {**GOOD, "caption": 3}, caption_row=rows)


ENTITY = "<annotation><size><width>100</width><height>50</height></size>{}</annotation>"
OBJECT = "<object><name>1</name><bndbox>{}</bndbox></object>"


@pytest.mark.parametrize(
    ("corners", "message"),
    [((90, 1, 20, 40), "ends before it begins"), ((1, 1, 300, 40), "out of the picture of 100 x"),
     ((1, 30, 20, 29), "ends before it begins"), ((1, 1, "x", 40), "invalid literal")],
)  # fmt: skip
def test_boxes_of_entities_are_checked(tmp_path, corners, message):
    ends = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    box = OBJECT.format("".join(f"<{name}>{value}</{name}>" for name, value in ends))
    (tmp_path / "1.xml").write_text(ENTITY.format(box))
    with pytest.raises(ValueError, match=rf"1\.xml is not an annotation of .*: .*{message}"):
        entity_boxes(tmp_path / "1.xml")
    small = OBJECT.format("<xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax>")
    (tmp_path / "1.xml").write_text(ENTITY.format(small))
    assert entity_boxes(tmp_path / "1.xml") == ((100, 50), {"1": [(0, 0, 1, 1)]})


def test_phrases_of_images_beyond_the_split_are_counted(tmp_path, capsys):
    split = split_in(tmp_path)
    rows = np.repeat(split.features, 2, axis=0)
    (tmp_path / "test_phrases.jsonl").write_text(
        "".join(f"{json.dumps({**GOOD, 'image': i})}\n" for i in (1, len(rows) - 1))
    )
    found = read_phrases(None, dataclasses.replace(split, features=rows))
    assert [phrase.image for phrase in found] == [1]
    assert "left out: 1 phrases of test_phrases.jsonl about images" in capsys.readouterr().out


def test_phrases_of_entities_without_a_box_are_counted(tmp_path, capsys):
    for name in ("Sentences", "Annotations"):
        (tmp_path / name).mkdir()
    text = "\ufeff[/EN#1/people A man] in [/EN#2/scene a park] .\n"  # of an editor on Windows
    (tmp_path / "Sentences/7.txt").write_text(text, encoding="utf-8")
    (tmp_path / "Annotations/7.xml").write_text(
        "<annotation><size><width>64</width><height>48</height></size><object><name>1</name>"
        "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
        "</annotation>"
    )
    split = dataclasses.replace(split_in(tmp_path), ids=["7"], row=np.arange(1))
    assert [phrase.text for phrase in read_phrases(tmp_path, split)] == ["A man"]
    told = capsys.readouterr().out
    assert told == "left out: 1 of 2 phrases of split test without a box, such as 'a park'\n"
    with pytest.raises(ValueError, match="begins inside another one"):
        entity_phrases("[/EN#1/people A man [/EN#2/scene a park] ]")


def test_no_option_is_named_that_phrases_lack(tmp_path):
    """Boxes x, y, width, height; `box_order=` belongs to other commands."""
    with pytest.raises(ValueError, match=r"to be x, y, width, height, .* last two first$"):
        read(tmp_path, {**GOOD, "boxes": [[0.6, 0.6, 0.2, 0.2]]})
