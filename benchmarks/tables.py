"""Write the tables of published and one-seed results in docs/ from data files.

    python -m benchmarks.tables      # after changing one of the files

conf/recipe/published.csv holds published results, one row per model, protocol and source. If a
page shows one of several sources, it shows the first. `a+b` is the mean of the scores of both
models. benchmarks/results/*.csv holds one-seed results measured with this library, each with its
command; `python -m itm.report pages=...` writes the tables over several seeds from the records in
benchmarks/results/. Recalls have the names of `itm.metrics.evaluate`.
"""

import csv
import re
from collections.abc import Callable
from pathlib import Path

from itm.metrics.ranking import RECALLS
from itm.runs.tables import markdown_table

ROOT = Path(__file__).parents[1]
PAGES = ("docs/models.md", "docs/results.md")
PUBLISHED = ROOT / "conf" / "recipe" / "published.csv"
MEASURED = ROOT / "benchmarks" / "results"
PROTOCOLS = {"f30k_1k": "Flickr30K 1K", "coco_1k": "COCO 1K", "coco_5k": "COCO 5K"}
TABLE = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- /table -->)", re.S)

Row = dict[str, str]


def main() -> None:
    for page in PAGES:
        path = ROOT / page
        path.write_text(fill(path.read_text(encoding="utf-8")), encoding="utf-8")


def fill(page: str) -> str:
    """Return the page with every marked table rewritten."""
    return TABLE.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}{found[3]}", page)


def read(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def first_recalls() -> str:
    """Make the table of published R@1: one row per model, one column per protocol."""
    cells: dict[str, dict[str, str]] = {}
    for row in read(PUBLISHED):
        found = cells.setdefault(row["model"], {})
        found.setdefault(row["protocol"], f"{row['i2t_r1']}, {row['t2i_r1']}")
    rows = [[named(model), *(c.get(name, "") for name in PROTOCOLS)] for model, c in cells.items()]
    return markdown_table(["`model=`", *PROTOCOLS.values()], rows)


def published() -> str:
    """Make the table of all published results with their sources."""
    columns = ["`model=`", "measured on", "i2t R@1 5 10", "t2i R@1 5 10", "source", "note"]
    rows = [
        [named(r["model"]), measured_on(r), *both(r), r["source"], r["note"]]
        for r in read(PUBLISHED)
    ]
    return markdown_table(columns, rows)


def measured() -> str:
    """Make the table of results of this library by command; what all share stands below."""
    columns = ["`python -m` ...", "parameters", "i2t R@1 5 10", "t2i R@1 5 10", "rsum"]
    found = read(MEASURED / "flickr8k.csv")
    commands = [row["command"].removeprefix("python -m ").split(" ") for row in found]
    shared = [word for word in commands[0][1:] if all(word in words for words in commands)]
    rows = []
    for row, words in zip(found, commands, strict=True):
        command = f"`{' '.join(word for word in words if word not in shared)}`"
        note = f" ({row['note']})" if row["note"] else ""
        rows.append([command + note, f"{row['million_parameters']} M", *both(row), row["rsum"]])
    table = markdown_table(columns, rows)
    return f"{table}\nEvery command also has `{' '.join(shared)}`.\n" if shared else table


def named(model: str) -> str:
    return " + ".join(f"`{name}`" for name in model.split("+"))


def measured_on(row: Row) -> str:
    return PROTOCOLS.get(row["protocol"], {"flickr8k": "Flickr8K 1K"}.get(row["data"], row["data"]))


def both(row: Row) -> tuple[str, str]:
    """Format R@1, R@5 and R@10 of both directions; a dash stands for a number without a source."""
    cells = [row[r] or "-" for r in RECALLS]
    return " ".join(cells[:3]), " ".join(cells[3:])


TABLES: dict[str, Callable[[], str]] = {
    "published-first-recalls": first_recalls,
    "published": published,
    "measured-flickr8k": measured,
}

if __name__ == "__main__":
    main()
