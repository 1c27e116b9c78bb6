"""Make the page of `python -m itm.report`, with embedded plots."""

from collections.abc import Sequence

from itm.runs.report import Section
from itm.visual.html import Table, render
from itm.visual.thumbnails import thumbnail


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
