"""Every fixture of an original implementation is named in a test."""

import re

import pytest
from goldens_path import HERE, SHARED

FOLDERS = [folder for folder in (HERE / "goldens", SHARED / "goldens") if folder.is_dir()]
CASES = sorted({f"{x.parent.name}/{x.name}" for root in FOLDERS for x in root.glob("*/*/")})


@pytest.fixture(scope="module")
def quoted():
    """All strings in double quotes in the tests, and the parts of those that are paths."""
    files = [path.read_text(encoding="utf-8") for path in HERE.rglob("*.py")]
    strings = {x for text in files for x in re.findall(r'"([^"\n]+)"', text)}
    return strings | {part for x in strings for part in x.split("/")}


def test_there_are_fixtures():
    assert len(CASES) > 20


@pytest.mark.parametrize("case", CASES)
def test_a_fixture_is_named_in_a_test(case, quoted):
    assert case in quoted or case.split("/")[1] in quoted, f"no test names {case}"
