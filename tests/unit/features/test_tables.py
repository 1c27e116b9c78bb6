import csv
import gzip
import io
import json

import pytest

from itm.data.names import Names
from itm.features.sentences import read_sentences


def read(path, text, ending="csv"):
    file = path / f"captions.{ending}"
    file.write_text(text, encoding="utf-8", newline="")
    return read_sentences(file)


@pytest.mark.parametrize(
    ("ending", "text", "wanted"),
    [
        ("csv", 'image,caption\n1.jpg,A dog .\n1.jpg,"A dog, runs"\n', ["A dog .", "A dog, runs"]),
        (
            "csv",
            'image_name| comment_number| comment\n1.jpg| 0| A "dog, runs .\n1.jpg| 4   B .\n',
            ['A "dog, runs .', "B ."],
        ),  # the row without its second delimiter is Kaggle's
        ("csv", ",image,caption\n0,1.jpg,A dog\n", ["A dog"]),
        ("csv", "image;caption\n1.jpg;A dog, x; y\n", ["A dog, x; y"]),
        ("csv", 'image,caption\n1.jpg,A "big" dog\n', ['A "big" dog']),
        ("csv", "image,caption\r1.jpg,A\r1.jpg,B\r", ["A", "B"]),
        ("csv", '\ufefffile_name,label,text\n1.jpg,3,"A dog\nruns"\n', ["A dog runs"]),
        ("csv", "| image | caption |\n|---|:--|\n| 1.jpg | A |\n", ["A"]),
        ("csv", 'raw,split,filename,img_id\n"[""A, b"", ""B""]",train,1.jpg,0\n', ["A, b", "B"]),
        ("csv", "image,caption_0,caption_1\n1.jpg,A,B\n", ["A", "B"]),
        ("csv", 'image,captions\n1.jpg,"[\'A\', ""it\'s""]"\n1.jpg,[]\n1.jpg,nan\n', ["A", "it's"]),
        ("tsv", 'filepath\ttitle\n1.jpg\tA "dog" runs\n', ['A "dog" runs']),
        ("tsv", 'image\tcaption\n1.jpg\t"A dog\n', ['"A dog']),
        ("txt", "1.jpg#0\tA dog\n1.jpg#1\tA cat\n", ["A dog", "A cat"]),
        (
            "jsonl",
            '{"image": "1.jpg", "text": "A"}\n{"image": "1.jpg", "text": ["B", "C"]}\n',
            ["A", "B", "C"],
        ),
        ("json", '[{"image": "1.jpg", "captions": [{"raw": "A"}]}]', ["A"]),
        ("csv", "image,caption\n1.jpg,A\nImage, Caption\n1.jpg,B\n", ["A", "B"]),  # two tables
        ("csv", "image,captions\n1.jpg,\"('A dog', 'B')\"\n", ["A dog", "B"]),
        ("csv", "image,captions\n1.jpg,\"[{'raw': 'A', 'tokens': ['a']}]\"\n", ["A"]),
        (
            "csv",
            "image,caption\n1.jpg,(left) a dog\n1.jpg,[sic] a cat\n",
            ["(left) a dog", "[sic] a cat"],
        ),
        ("csv", "image,caption,score\n1.jpg, A, 0.5\n1.jpg, B, 1\n", ["A", "B"]),
        ("csv", "ImageID,caption,x\n1.jpg,A,b.jpg\n", ["A"]),
        ("csv", "id,caption\n1.jpg,A\n", ["A"]),
        ("tsv", "1.jpg\tdog\n1.jpg\ta cat runs\n", ["dog", "a cat runs"]),
        ("jsonl", '{"image": "1.jpg", "text": "A", "split": null}\n', ["A"]),
    ],  # fmt: skip
)
def test_captions_are_read_whole(tmp_path, ending, text, wanted):
    found = read(tmp_path, text, ending)
    assert found.captions == {"1.jpg": wanted}


def test_numbers_of_images_and_names_of_splits_are_unified(tmp_path):
    found = read(tmp_path, '{"image_id": 391895.0, "caption": "x"}\n', "jsonl")
    assert found.captions == {"391895": ["x"]}
    found = read(tmp_path, "image,caption,split\n1.jpg,a,VAL\n2.jpg,b,Train\n")
    assert found.splits == {"1.jpg": "dev", "2.jpg": "train"}


@pytest.mark.parametrize(
    ("ending", "text", "message"),
    [
        ("csv", "foo,bar\n1.jpg,A\n", "csv:1: the header 'foo,bar' is not understood"),
        ("csv", "image,caption_en,caption_de\n1.jpg,A,B\n", "csv:1: the header .*caption_en"),
        ("csv", "image,caption,text\n1.jpg,a,b\n", "csv:1: .*could be the caption: caption, text"),
        ("tsv", "image\ttitle\tcaption\n1.jpg\tt\tc\n", "tsv:1: .*could be the caption"),
        ("csv", "filename,filename,caption\n1.jpg,2.jpg,a\n", "csv:1: .*two columns 'filename'"),
        ("csv", "caption,image\na, b,1.jpg\n", "csv:2: .* has 3 cells, expected the 2 columns"),
        ("csv", "image,caption\n1.jpg\n", "csv:2: .* has 1 cells"),
        ("csv", "1.jpg,0,A dog\n", "csv:1: .* has 3 cells, expected 2 columns"),
        ("csv", 'image,caption\n1.jpg,"A" dog\n', "csv:2: .*expected after"),
        ("csv", 'image,caption\n1.jpg,"A\n2.jpg,B\n', "csv:3: unexpected end"),
        ("csv", 'image_id,caption\n1,"A dog\n2,B"\n3,c\n', "csv:3: a quote is not closed"),
        ("csv", "image,captions\n1.jpg,\"['A dog' 'B dog']\"\n", "csv:2: .*not a complete list"),
        ("csv", "image,caption\n1.jpg," + "a" * 200_000 + "\n", "csv:2: field larger than"),
        ("tsv", "2 dogs run\thttp://x/1.jpg\n", "tsv:1: .*the picture behind the caption"),
        ("txt", "1.jpg#0 A dog\n", "txt:1: no TAB"),
        ("jsonl", '{"image_id": null, "caption": "x"}\n', "jsonl:1: expected the name or number"),
        ("jsonl", '{"image_id": [1], "caption": "x"}\n', "jsonl:1: expected the name or number"),
        ("jsonl", '{"image": "1.jpg", "caption": null}\n', "jsonl:1: expected a sentence"),
        ("jsonl", '{"image": "1.jpg"\n', "jsonl:1: not a JSON object"),
        ("json", '[["1.jpg", "x"]]', "json:1: expected an object"),
        ("json", '{"1.jpg": ["a"]}', "json: expected .*Karpathy"),
        ("json", "{", "json is not JSON"),
        ("csv", "image,caption\n1.jpg,A\ncaption,image\nB,2.jpg\n", "csv:3: a second header"),
        ("csv", 'image,captions\n1.jpg,"[A dog, A cat]"\n', "csv:2: .*not a complete list"),
        ("csv", "image,captions\n1.jpg,\"{'A', 'B'}\"\n", "csv:2: .*not a complete list"),
        ("csv", 'image,captions\n1.jpg,"{""raw"": ""A""}"\n', "csv:2: .*not a complete list"),
        (
            "csv",
            "image,captions\n1.jpg,\"array(['A'], dtype=object)\"\n",
            "csv:2: .*not a complete",
        ),
        ("csv", "id,photo_url,caption\n0,http://x/1.jpg,A\n", "csv:2: is id='0' the picture, or"),
        ("jsonl", '{"key": "0", "web": "1.jpg", "text": "A"}\n', "jsonl:1: is key='0' the picture"),
        ("csv", "image,caption\n'1.jpg','A dog'\n", "csv:2: the picture '1.jpg' is in quotes"),
        ("csv", 'image|caption\n"1.jpg"|"A dog"\n', 'csv:2: the picture "1.jpg" is in quotes'),
        ("csv", "image,caption\nnan,A dog\n", "csv:2: the picture is 'nan'"),
        ("csv", "image,caption,lang\n1.jpg,A dog, runs\n", "csv:2: .*goes on in the next cell"),
        ("tsv", "pic1\ttext1\nimg_1\tA dog\n", "tsv:1: the header 'pic1..text1' is not under"),
        ("tsv", "bild\tsatz\nrex\tA dog\nmia\tA cat\n", "tsv:1: the header 'bild..satz' is not"),
        ("jsonl", '{"image_id": 1e30, "caption": "x"}\n', "jsonl:1: expected the name or number"),
        (
            "csv",
            "image,caption\ncaf\u00e9.jpg,A\ncafe\u0301.jpg,B\n",
            "csv: two names look the same",
        ),
        ("csv", "image,subset,caption\n1.jpg,trainval,A\n", "csv:2: .*split 'trainval'"),
        ("parquet", "PAR1\x15\x04", "parquet:1: .*a Parquet file"),
    ],  # fmt: skip
)
def test_what_cannot_be_read_is_named(tmp_path, ending, text, message):
    with pytest.raises(ValueError, match=rf"captions\.{message}"):
        read(tmp_path, text, ending)


@pytest.mark.parametrize(
    ("images", "annotation", "message"),
    [
        ([(1, "1.jpg"), (1, "2.jpg")], 1, "two images have the id 1"),
        ([(1, "1.jpg")], 2, "a caption names image 2, which is not listed"),
    ],
)
def test_coco_files_that_contradict_themselves(tmp_path, images, annotation, message):
    content = {
        "images": [{"id": i, "file_name": name} for i, name in images],
        "annotations": [{"image_id": annotation, "caption": "a"}],
    }
    with pytest.raises(ValueError, match=rf"captions.json: {message}"):
        read(tmp_path, json.dumps(content), "json")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "image,caption\na.jpg,a dog\n".encode("utf-16"), "text in UTF-16: .*iconv"),
        ("a.csv", gzip.compress(b"image,caption\n", mtime=0), "compressed by gzip"),
        ("a.csv", b"PK\x03\x04" + b"x" * 40, "a zip archive"),
        ("a.txt", b"a.jpg#0\ta dog\na.jpg#0\ta cat\n", "2: a.jpg#0 comes twice"),
        (
            "a.csv",
            b"image,caption\na.jpg#0,a dog\na.jpg#0,a cat\n",
            "3: a.jpg#0 comes twice",
        ),
        (
            "a.jsonl",
            b'{"image": "a.jpg", "image": "b.jpg", "text": "dog"}\n',
            "'image' occurs twice",
        ),
        (
            "a.json",
            b'{"images": [{"filename": "a.jpg", "filepath": "x", "sentences": [{"raw": "dog"}]}, '
            b'{"filename": "a.jpg", "filepath": "y", "sentences": [{"raw": "cat"}]}]}',
            "two images are called 'a.jpg'.*'x' and 'y'",
        ),
        (
            "a.json",
            b'{"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "a.jpg"}], '
            b'"annotations": [{"image_id": 1, "caption": "dog"}]}',
            "two ids have the file_name 'a.jpg'",
        ),
        ("a.json", b'{"a.jpg": ["a dog"]}', "expected .*images"),
    ],
)
def test_captions_that_could_be_mixed_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"(?s){name}.*{message}"):
        read_sentences(tmp_path / name)


def test_an_annotation_that_comes_twice_is_refused(tmp_path):
    notes = [{"id": 5, "image_id": 1, "caption": "a"}] * 2
    content = {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": notes}
    with pytest.raises(ValueError, match=r"captions.json: two annotations have the id 5"):
        read(tmp_path, json.dumps(content), "json")


def test_sentences_of_karpathys_format_that_hold_no_text_are_named(tmp_path):
    for sentence in ("A dog", {"tokens": ["a", "dog"]}, {"raw": None}, 3):
        content = {"images": [{"filename": "1.jpg", "split": "train", "sentences": [sentence]}]}
        with pytest.raises(ValueError, match=r"1.jpg: expected sentences \[\{'raw': 'a caption'"):
            read(tmp_path, json.dumps(content), "json")


def test_pictures_without_captions_are_told(tmp_path, capsys):
    image = {"filename": "1.jpg", "split": "train", "sentences": [{"raw": "A"}]}
    karpathy = {"images": [image, {"filename": "2.jpg", "split": "train", "sentences": []}]}
    files = [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}]
    coco = {"images": files, "annotations": [{"image_id": 1, "caption": "A"}]}
    lines = '{"image": "1.jpg", "text": "A"}\n{"image": "2.jpg", "text": []}\n'
    for text, ending in (
        (json.dumps(karpathy), "json"),
        (json.dumps(coco), "json"),
        (lines, "jsonl"),
    ):
        found = read(tmp_path, text, ending)
        assert found.captions == {"1.jpg": ["A"]} and found.bare == ["2.jpg"]
    found.report()
    assert capsys.readouterr().out == "left out: 1 pictures without captions, such as 2.jpg\n"


@pytest.mark.parametrize("column", ["split", "splits", "subset", "set", "partition"])
def test_names_of_splits(tmp_path, column):
    splits = {"training": "train", "valid": "dev", "development": "dev", "testing": "test"}
    rows = "".join(f"{i}.jpg,{split},A dog\n" for i, split in enumerate(splits))
    found = read(tmp_path, f"image,{column},caption\n{rows}").splits
    assert list(found.values()) == list(splits.values())


def test_the_split_may_be_written_in_capitals(tmp_path):
    (tmp_path / "a.json").write_text(
        '{"images": [{"filename": "a.jpg", "split": "Train", "sentences": [{"raw": "dog"}]}]}'
    )
    assert read_sentences(tmp_path / "a.json").splits == {"a.jpg": "train"}


def test_unknown_splits_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"csv:2: a.jpg is in the split 'holdout'; expected train"):
        read(tmp_path, "image,caption,split\na.jpg,dog,holdout\n")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("sits_test.csv", "caption,image,agg_score\nCOCO_val2014:sentid:7,a.jpg,2.2\n"),
        ("a.tsv", "image\tcaption\na.jpg\t17\nb.jpg\t18\n"),
        ("a.txt", "a.jpg\t000001\nb.jpg\t000002\n"),
    ],
)
def test_captions_that_are_numbers_are_refused(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name}: its captions are names or numbers, such as"):
        read_sentences(tmp_path / name)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"file_name": "a.jpg", "caption": "a dog \ud83d"}, r"a caption of a.jpg 'a dog \\ud83d'"),
        ({"file_name": "a\nb.jpg", "caption": "a dog"}, "of a picture holds a line break"),
    ],
)
def test_text_that_cannot_be_written_is_refused_first(record, message, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([record]))
    with pytest.raises(ValueError, match=f"a.json.*{message}"):
        read_sentences(tmp_path / "a.json")


def test_a_number_sign_may_belong_to_a_name(tmp_path):
    """Only `#0` behind an ending, or in all names, counts captions."""
    found = read(tmp_path, "image,caption\nsky,A\nsky#1,B\nsky#1,C\nsky#2,D\n")
    assert found.captions == {"sky": ["A"], "sky#1": ["B", "C"], "sky#2": ["D"]}
    found = read(tmp_path, "sky#1\tA dog\nsky#2\tA cat\n", "txt")
    assert list(found.captions) == ["sky#1", "sky#2"]
    found = read(tmp_path, "sky#1.jpg#0\tA dog\nsky#1.jpg#1\tA cat\nsky\tB\n", "txt")
    assert found.captions == {"sky#1.jpg": ["A dog", "A cat"], "sky": ["B"]}
    found = read(tmp_path, "sky#0\tA dog\nsky#1\tA cat\nsea#0\tB\n", "txt")
    assert found.captions == {"sky": ["A dog", "A cat"], "sea": ["B"]}


@pytest.mark.parametrize("name", ["1.23457E+11", "1E+15", "1,23457E+11"])
def test_numbers_that_a_spreadsheet_rounded_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"csv:2: the picture .*E\+1.* spreadsheet has rounded"):
        read(tmp_path, f"image;caption\n{name};A dog\n")
    assert Names([f"{name[-2:]}.jpg"]).find(name) is None


def test_captions_that_show_nothing_are_counted_as_empty(tmp_path):
    found = read(tmp_path, "image,caption\n1.jpg,\u200b\n1.jpg,A\n1.jpg, \n")
    assert found.captions == {"1.jpg": ["A"]} and found.empty == 2


def test_quoted_cells_of_a_table_without_header_are_unquoted(tmp_path):
    rows = [["1.jpg", 'A "big" dog'], ["2.jpg", "A cat"], ["3.jpg", "Rain, and wind"]]
    out = io.StringIO()
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
        out = io.StringIO()
        csv.writer(out, delimiter="\t", quoting=quoting, lineterminator="\n").writerows(rows)
        assert read(tmp_path, out.getvalue(), "tsv").captions == {n: [c] for n, c in rows}
    for own in ('"Stop" says a sign', 'A 5" pipe', '"Not closed'):
        found = read(tmp_path, f'1.jpg\t{own}\n2.jpg\t"All"\n', "tsv")
        assert found.captions == {"1.jpg": [own], "2.jpg": ['"All"']}


def test_the_line_of_excel_that_names_the_delimiter_is_skipped(tmp_path):
    found = read(tmp_path, "sep=;\r\nimage;caption\r\n1.jpg;A dog, a cat\r\n")
    assert found.captions == {"1.jpg": ["A dog, a cat"]}
    with pytest.raises(ValueError, match=r"csv:3: "):
        read(tmp_path, "sep=;\nimage;caption\n1.jpg\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"1.jpg": ["A"], "2.jpg": ["B"]}, "a list of .*found an object with the keys '1.jpg', '2"),
        ({"images": [{"id": 7, "file_name": None}], "annotations": []}, "id 7: file_name is None"),
        (
            {
                "images": [{"id": 7, "file_name": "7.jpg"}],
                "annotations": [{"image_id": 7, "caption": None}],
            },
            "an annotation of 7.jpg: caption is None",
        ),
        (
            {
                "images": [{"id": 7, "file_name": "7.jpg"}],
                "annotations": [{"image_id": 7, "bbox": [1, 2, 3, 4]}],
            },
            "an annotation of 7.jpg has no caption: .* not its instances",
        ),
        ({"images": [{"filename": None, "sentences": []}]}, r"images\[0\]: filename is None"),
    ],
)
def test_values_of_json_that_are_no_text_are_named(tmp_path, content, message):
    with pytest.raises(ValueError, match=rf"captions\.json: .*{message}"):
        read(tmp_path, json.dumps(content), "json")
