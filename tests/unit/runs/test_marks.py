"""A mark that a page seems to hold is filled or refused, never passed over."""

import pytest
from made_runs import made_run, write_run

from itm.app.config import compose
from itm.report import command
from itm.runs.marks import find_marks
from itm.runs.pages import fill
from itm.visual.report_page import check_pages, write_page

END = "\nold\n<!-- /table -->\n"


def sweep():
    margins = enumerate((0.1, 0.2, 0.3))
    return [made_run(f"r/{i}", validation=100.0 + i, **{"loss.margin": m}) for i, m in margins]


@pytest.mark.parametrize(
    "mark",
    [
        "<!-- table: runs r/* --> ",
        "<!--table: runs r/* -->",
        "<!-- Table: runs r/* -->",
        "<!-- table : runs r/* -->",
        "<!-- table: runs -->",
        "<!-- table: Runs -->",
        "<!--  table: runs r/* -->",
        "<!-- table runs r/* -->",
        "<!-- figure: loss.margin -->",
        "<!-- table:runs r/* -->",
        "<!-- table: runs r/*-->",
    ],
)
def test_what_was_meant_as_a_mark_is_not_left_as_it_is(mark):
    with pytest.raises(ValueError, match="line 3: .* is not a mark: expected '<!-- table: runs"):
        fill(f"# Page\n\n{mark}{END}", sweep())


@pytest.mark.parametrize(
    "text",
    [
        "```\n<!-- table: runs r/* -->\n<!-- /table -->\n```\n",
        "~~~ markdown\n```\n<!--table: runs r/* -->\n~~~\n",
        "```\n<!-- table: runs -->\n",  # a fence that is not closed reaches the end
        "Write `<!-- table: runs -->`, or ``<!-- figure: x -->``.\n",
        "<!-- table: published -->\nold\n<!-- /table -->\n",
        "<!-- tables of figures -->\n<!-- table of contents -->\n",
    ],
)
def test_examples_and_marks_of_others_stay(text):
    assert find_marks(text) == [] and fill(text, sweep()) == text
    filled = fill(f"{text[:-1]}\n\n<!-- table: runs other/* -->{END}", [])
    assert filled.startswith(text) and (
        "No runs yet." in filled or text.startswith("```\n<!-- table: runs -->")
    )


def test_marks_before_and_after_an_example_are_filled():
    mark = f"<!-- table: runs r/* -->{END}"
    fence = f"```\n{mark}```\n"
    filled = fill(f"`a` {mark}{fence}{mark}", sweep())
    assert filled.count("old") == 1 and fence in filled and filled.count("| 3 |") == 0
    assert fill(filled, sweep()) == filled and filled.count("val rsum") == 2


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("table: runs within=model r/*", r"within= in a mark: table: runs takes by, metrics"),
        ("table: runs out=x.png r/*", "out= in a mark"),
        ("table: differences metrics=rsum r/*", r"metrics= in a mark: .* takes by, within"),
        ("figure: loss.margin within=model out=x.png r/*", "within= in a mark"),
        ("table: runs by=model, loss r/*", "commas and without blanks, such as by=model,loss"),
        ("table: runs by=model ,loss r/*", "commas and without blanks"),
        ("table: runs by= model r/*", "commas and without blanks"),
        ("table: runs by=model loss r/*", "no run folder matches loss"),
        ("table: runs r/* r/9", "no run folder matches r/9"),
        ("table: runs by=model", "give patterns of run folders"),
        ("table: runs by=model by=loss r/*", "by= is given twice"),
        ("table: runs 'r/*", r"table: runs 'r/\*: No closing quotation"),
        ("figure: model out=x.png r/*", "its axis needs numbers, and a run has 'scan'"),
    ],
)
def test_options_of_a_mark_are_used_or_refused(mark, message):
    with pytest.raises(ValueError, match=message):
        fill(f"<!-- {mark} -->\n<!-- /{mark.partition(':')[0]} -->\n", sweep())


def test_a_page_without_marks_is_refused(tmp_path):
    (tmp_path / "page.md").write_text("# Results\n<!-- table: published -->\n<!-- /table -->\n")
    with pytest.raises(ValueError, match=r"page\.md: holds no mark"):
        check_pages([tmp_path / "page.md"], sweep())


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_lines_of_a_page_keep_their_ends(end, tmp_path):
    """Pages of Windows were rewritten as a whole."""
    page = tmp_path / "page.md"
    page.write_bytes(end.join([b"# R", b"<!-- table: runs r/* -->", b"<!-- /table -->", b"", b"x"]))
    assert write_page(page, sweep(), 10) == 1
    found = page.read_bytes()
    assert found.count(b"\n") == found.count(end) > 6
    assert found.count(b"\r") == found.count(b"\r\n")
    assert write_page(page, sweep(), 10) == 1 and page.read_bytes() == found


def test_one_line_end_of_windows_does_not_change_the_others(tmp_path):
    page = tmp_path / "page.md"
    page.write_bytes(b"# R\r\n<!-- table: runs r/* -->\n<!-- /table -->\n\nx\n")
    write_page(page, sweep(), 10)
    assert b"\r" not in page.read_bytes()


def test_two_figures_never_have_one_file(tmp_path):
    pytest.importorskip("matplotlib")
    figure = "<!-- figure: loss.margin out={} r/* -->\n<!-- /figure -->\n"
    a, b = tmp_path / "a.md", tmp_path / "b.md"
    a.write_text(figure.format("x.png") + figure.format("./x.png"))
    b.write_text(figure.format("x.png"))
    with pytest.raises(ValueError, match=r"a\.md: two figures have the file x\.png"):
        check_pages([a], sweep())
    a.write_text(figure.format("x.png"))
    with pytest.raises(ValueError, match=r"b\.md and .*a\.md: two figures have the file x\.png"):
        check_pages([a, b], sweep())
    check_pages([a], sweep())
    assert write_page(a, sweep(), 10) == 1 and (tmp_path / "x.png").is_file()
    check_pages([a], sweep())


def test_the_command_says_what_a_page_shows_and_what_it_lacks(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("itm.report.MANY", 2)
    write_run(tmp_path / "r/0")
    write_run(tmp_path / "r/1", seed=1)
    (tmp_path / "r/1/results.json").write_text("{")
    (tmp_path / "page.md").write_text(f"<!-- table: runs r/* -->{END}" * 2)
    command(compose(["runs=r", "pages=[page.md,./page.md]", "out=page", "samples=10"], "report"))
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["reading 2 folders ...", "page.md: 2 marks filled"] or lines[:2] == [
        "reading 2 folders ...", "./page.md: 2 marks filled"
    ]  # fmt: skip
    assert lines[2].startswith("not on the page: r/1: damaged: results.json")
