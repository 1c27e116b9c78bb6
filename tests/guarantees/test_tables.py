"""The tables of README and docs hold what the data files hold, and the files make sense."""

import re
import shlex
import sys
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("benchmarks come with the repository only", allow_module_level=True)
sys.path.insert(0, str(ROOT))

from benchmarks import tables  # noqa: E402

from itm.app.config import CONF, compose  # noqa: E402
from itm.metrics.protocols import PROTOCOLS  # noqa: E402
from itm.runs.history import find_runs  # noqa: E402
from itm.runs.pages import drawings, fill  # noqa: E402

MEASURED = sorted(tables.MEASURED.glob("*.csv"))


def test_the_pages_are_up_to_date():
    shown = set()
    for page in tables.PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        assert tables.fill(text) == text, f"{page}: run python -m benchmarks.tables"
        shown |= {name for _, name, _ in tables.TABLE.findall(text)}
    assert shown == set(tables.TABLES)


def test_the_pages_show_the_kept_records():
    runs, unfinished = find_runs([tables.MEASURED])
    assert runs and not unfinished
    pages = ("README.md", "docs/results.md", "docs/low_data.md")
    how = f"run python -m itm.report runs=benchmarks/results 'pages=[{','.join(pages)}]'"
    for page in pages:
        text = (ROOT / page).read_text(encoding="utf-8")
        assert fill(text, runs) == text, f"{page}: {how}"
        for drawing in drawings(text, runs):
            assert (ROOT / page).parent.joinpath(drawing.path).is_file(), f"{page}: {how}"


def test_records_are_small_and_name_no_folder_of_a_machine():
    for file in tables.MEASURED.glob("*/**/*"):
        if file.is_file():
            assert file.name in ("results.json", "settings.yaml", "ranks.npz"), file
            assert file.stat().st_size < 16_000, file
            assert file.suffix == ".npz" or not re.search(r"[=: '\"]/\w", file.read_text()), file


def test_a_changed_number_is_noticed():
    text = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    assert "| 290.7 |" in text and tables.fill(text.replace("| 290.7 |", "| 300.7 |")) == text


def test_published_rows_name_a_configuration_and_a_source():
    rows = tables.read(tables.PUBLISHED)
    keys = [(r["model"], r["protocol"], r["source"]) for r in rows]
    assert len(set(keys)) == len(keys)
    for row in rows:
        for group, names in (("model", row["model"].split("+")), ("data", [row["data"]])):
            assert all(Path(CONF, group, f"{name}.yaml").is_file() for name in names), row
        assert row["protocol"] in PROTOCOLS and row["source"].strip(), row
        assert "memory" not in (row["source"] + row["note"]).lower(), row
        # Only a set without a protocol of its own is measured on whatever split there is.
        assert row["protocol"].startswith("full" if row["data"] == "flickr8k" else row["data"]), row


@pytest.mark.parametrize("path", [tables.PUBLISHED, *MEASURED], ids=lambda path: path.stem)
def test_recalls_grow_with_k_and_sum_up(path):
    for row in tables.read(path):
        found = [row[name] for name in tables.RECALLS]
        # The authors of CHAN state no R@10 in their repository.
        assert all(found) or ("R@10 not stated" in row["note"] and all(found[:2] + found[3:5])), row
        recalls = [float(value) for value in found if value]
        half = len(recalls) // 2
        for way in (recalls[:half], recalls[half:]):
            assert way[0] > 0 and way[-1] < 100, row
            assert all(a < b for a, b in pairwise(way)), row
        assert float(row.get("rsum", sum(recalls))) == pytest.approx(sum(recalls), abs=0.3), row


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.stem)
def test_the_commands_of_measured_rows_compose(path):
    for row in tables.read(path):
        python, flag, module, *overrides = shlex.split(row["command"])
        assert (python, flag) == ("python", "-m"), row
        cfg = compose(overrides, module.removeprefix("itm."))
        assert cfg.data.protocol == "full"
