"""Write the report of `python -m itm.report`: its page and tables, and those of other pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from itm.runs.groups import Groups, group_seeds
from itm.runs.history import Run, Unfinished, short_tests
from itm.runs.marks import find_marks
from itm.runs.pages import Drawing, drawings, fill
from itm.runs.report import Section, costs, differences, every_run, results, unfinished_runs
from itm.runs.report_files import format_results, markdown
from itm.utils.errors import TakenError
from itm.utils.files import write_text
from itm.visual.html import Table, render
from itm.visual.thumbnails import thumbnail

ENDINGS = {"csv": "csv", "latex": "tex", "json": "json"}

# Groups, the best groups, the option on the horizontal axis, folder, suffix -> sections.
Draw = Callable[[Groups, Groups, str, Path, str], Sequence[Section]]


def write_report(
    folder: Path,
    title: str,
    runs: Sequence[Run],
    unfinished: Sequence[Unfinished] = (),
    against: str = "loss.margin",
    most: int = 10,
    samples: int = 2000,
    draw: Draw | None = None,
) -> dict[str, Groups]:
    """Write report.html, report.md, the results as tables, and the plots.

    Args:
        folder: empty folder to write into.
        title: title of the page.
        runs: runs with results.
        unfinished: runs without.
        against: option on the horizontal axis of a plot.
        most: number of groups in tables of differences and in plots.
        samples: number of bootstrap samples.
        draw: `itm.visual.report_figures.report_figures`; None = no plots.

    Returns:
        Test split -> its runs in groups that differ only in the seed.

    Raises:
        ValueError: no run has the option `against`.
    """
    # The default is accepted even if no loss has a margin.
    known = {"loss.margin", *(setting for run in runs for setting in run.settings)}
    if against not in known:
        near = get_close_matches(against, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(sorted(known))}"
        raise ValueError(f"against={against} is not an option of these runs: {hint}")
    tests: dict[str, Groups] = {
        title: group_seeds([run for run in runs if run.test == test])
        for test, title in short_tests(run.test for run in runs).items()
    }
    sections: list[Section] = []
    for number, (test, groups) in enumerate(tests.items()):
        best = dict(islice(groups.items(), most))
        tables = [results(groups, test, samples), differences(best, samples), costs(groups)]
        sections += [table for table in tables if table is not None and table.rows]
        if draw is not None:
            sections += draw(groups, best, against, folder, f"_{number}" if number else "")
    sections.append(every_run(runs))
    if unfinished:
        sections.append(unfinished_runs(unfinished))
    write_text(folder / "report.md", markdown(title, sections))
    write_text(folder / "report.html", report_page(title, sections))
    for kind, ending in ENDINGS.items():
        write_text(folder / f"results.{ending}", format_results(tests, kind))
    return tests


def check_pages(paths: Sequence[Path], runs: Sequence[Run]) -> None:
    """Check that `write_page` can rewrite some pages, with few samples; nothing is written.

    Raises:
        OSError: a page cannot be read.
        TakenError: as for `write_page`.
        ValueError: a mark is wrong, a page has none, or two figures have one file.
    """
    taken: dict[Path, Path] = {}
    for path in paths:
        for picture in _check_page(path, runs):
            if picture in taken:
                other = "" if taken[picture] == path else f" and {taken[picture]}"
                raise ValueError(
                    f"pages={path}{other}: two figures have the file {picture.name}: give each "
                    "another out= in its mark"
                )
            taken[picture] = path


def _check_page(path: Path, runs: Sequence[Run]) -> list[Path]:
    """Check a page, and list the files of its figures."""
    try:
        text = _read(path)[0]
        if not find_marks(text):
            raise ValueError(
                "holds no mark: write <!-- table: runs PATTERN --> and, in a line "
                "below it, <!-- /table --> where a table shall be"
            )
        fill(text, runs, samples=10)
        return [
            _picture(path.resolve(), drawing, text).resolve() for drawing in drawings(text, runs)
        ]
    except TakenError:
        raise
    except OSError as error:
        raise OSError(f"pages={path} cannot be read: {error}") from error
    except ValueError as error:  # a wrong mark, or bytes that are not UTF-8
        raise ValueError(f"pages={path}: {error}") from error


def write_page(path: Path, runs: Sequence[Run], samples: int) -> int:
    """Rewrite the tables between the marks of a page, and the figures whose numbers changed.

    Returns:
        The number of marks.

    Raises:
        TakenError: a figure would replace a picture that the page did not show before.
    """
    path = path.resolve()  # a link stays a link
    text, end = _read(path)
    for drawing in drawings(text, runs):
        from itm.visual.figure_files import save  # late: matplotlib is optional
        from itm.visual.report_figures import against

        picture = _picture(path, drawing, text)
        figure = against(drawing.groups, drawing.setting, drawing.metrics)
        if figure is not None and (drawing.digest not in text or not picture.is_file()):
            save(figure, picture)
    write_text(path, fill(text, runs, samples).replace("\n", end))
    return len(find_marks(text))


def _read(path: Path) -> tuple[str, str]:
    """Read a page with the line ends of Unix, and return those of most of its lines."""
    text = path.read_bytes().decode("utf-8")
    plain = text.replace("\r\n", "\n")
    return plain, "\r\n" if 2 * text.count("\r\n") > plain.count("\n") else "\n"


def _picture(path: Path, drawing: Drawing, text: str) -> Path:
    """Find the file of a figure, and check that it is a figure of the page."""
    picture = path.parent / drawing.path
    if picture.exists() and f"({drawing.path})\n<!-- drawn from" not in text:
        raise TakenError(f"{picture} is not a figure of {path}: give another out= in its mark")
    return picture


def report_page(title: str, sections: Sequence[Section]) -> str:
    """Make the page from the sections of a report."""
    shown = [
        {
            "title": section.title,
            "text": section.text,
            "table": Table(section.columns, section.rows) if section.rows else None,
            "picture": thumbnail(section.picture, alt=section.title) if section.picture else None,
        }
        for section in sections
    ]
    return render("report.html", {"title": title, "sections": shown})
