"""Text from elsewhere appears literally on terminals and in Markdown, CSV, LaTeX and figures."""

import csv
import io

import pytest

from itm.runs.escape import for_csv, for_figure, for_latex, for_markdown, printable
from itm.runs.tables import csv_table, latex_table, markdown_table, metric_table, rows_table

EVIL = "[red]a[/red] $x_1$ \x1b[31m|`*_b_*`| <b>&\n=1+1 \u202e\ud800 \\ 50% {c} #~^"


def test_a_terminal_gets_no_markup_and_no_control_characters():
    text = rows_table(EVIL, [EVIL, "[/bold]"], [[EVIL, "[/bold]"], ["[bold]x", 1.0]])
    assert "\x1b" not in text and "\u202e" not in text
    assert text.count("[red]a[/red] $x_1$") == 3 and text.count("[/bold]") == 2
    assert "[bold]x" in text
    text.encode("utf-8")  # no half characters
    report = {
        EVIL: dict.fromkeys(
            ["rsum", *[f"{w}_r{k}" for w in ("i2t", "t2i") for k in (1, 5, 10)]], 1.0
        )
    }
    assert "[red]a[/red]" in metric_table(report, "[/x]")


def test_one_line_in_every_script():
    assert printable("a\r\n\tb\u00a0c\u3000d") == "a   b c d"
    assert printable("狗 é می\u200cخواهم") == "狗 é می\u200cخواهم"


def test_markdown_is_text():
    cell = for_markdown(EVIL)
    assert "\n" not in cell
    table = markdown_table(["a"], [[cell]])
    assert len(table.splitlines()) == 3
    for mark in "|`*<>[]$&":
        assert cell.count(mark) == cell.count(f"\\{mark}")
    assert for_markdown("data.root_a=1") == "data.root_a=1" and for_markdown("_a_") == r"\_a\_"


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t=", " =", "＝"])
def test_no_cell_is_a_formula(begin):
    (row,) = csv.reader(io.StringIO(csv_table([f"{begin}cmd|' /C calc'!A0"], [])))
    assert row[0].startswith("'")
    assert for_csv(-1.5) == -1.5 and for_csv("-1.5") == "-1.5" and for_csv("+2e-3") == "+2e-3"


def test_cells_with_commas_quotes_and_lines_stay_cells():
    rows = list(csv.reader(io.StringIO(csv_table(["a", "b"], [['x, "y"', "1\n2"]]))))
    assert rows == [["a", "b"], ['x, "y"', "1 2"]]


def test_latex_is_text_and_the_best_is_bold():
    table = latex_table(["run", "r_1"], [[EVIL, 1.0], ["b", "2.0 ± 0.1"]], {(1, 1)})
    assert r"\textbf{2.0 $\pm$ 0.1}" in table and r"r\_1" in table and "\x1b" not in table
    row = for_latex(EVIL)
    for mark in "$&#%_{}":
        assert mark not in row.replace(f"\\{mark}", "").replace("{}", "").replace("\\text", "")
    assert table.count("\\\\\n") == 3


def test_figures_show_dollars_and_underscores():
    cbook = pytest.importorskip("matplotlib.cbook")
    from matplotlib.figure import Figure

    assert not cbook.is_math_text(for_figure("$a$ and \\$b_$"))
    figure = Figure()
    axes = figure.subplots()
    axes.plot([1, 2], label=for_figure("_$x^$"))
    assert [text.get_text() for text in axes.legend().get_texts()] == [r" _\$x^\$"]
    figure.savefig(io.BytesIO())  # an unbalanced formula would be an error
