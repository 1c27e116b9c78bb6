"""Every fixture of an original implementation is named in a test."""

import re

import pytest
from goldens_path import HERE, SHARED

FOLDERS = [folder for folder in (HERE / "goldens", SHARED / "goldens") if folder.is_dir()]
CASES = sorted({f"{x.parent.name}/{x.name}" for root in FOLDERS for x in root.glob("*/*/")})


@pytest.fixture(scope="module")
def quoted():
    """Of each test file: the strings in double quotes, and the parts of those that are paths."""
    found = []
    for path in HERE.rglob("*.py"):
        strings = set(re.findall(r'"([^"\n]+)"', path.read_text(encoding="utf-8")))
        found.append(strings | {part for x in strings for part in x.split("/")})
    return found


def test_there_are_fixtures():
    assert len(CASES) > 20


@pytest.mark.parametrize("case", CASES)
def test_a_fixture_is_named_in_a_test(case, quoted):
    """One file names it and its system; a name such as `bert` alone may mean something else."""
    parts = set(case.split("/"))
    assert any(case in strings or parts <= strings for strings in quoted), f"no test names {case}"
