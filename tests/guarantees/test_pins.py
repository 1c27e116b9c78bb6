"""What README and CI install has a pinned version and hashes, torch excepted."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GROUPS = ("build", "run", "develop")


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text):
    return {normal(a): b for a, b in re.findall(r"(?m)^([\w.-]+)==([\w.+]+)", text)}


CONSTRAINTS = pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))


def read(group):
    return (ROOT / "requirements" / f"{group}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("group", GROUPS)
def test_every_requirement_has_the_pinned_version_and_hashes(group):
    entries = re.split(r"(?m)^(?=\w)", read(group))[1:]
    assert entries
    for entry in entries:
        ((name, version),) = pins(entry).items()
        assert CONSTRAINTS[name] == version, f"{name}: run requirements/lock.py"
        assert re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry), name


def test_the_files_are_complete():
    build, run, develop = (pins(read(group)).keys() for group in GROUPS)
    assert build | develop | {"torch"} == CONSTRAINTS.keys()
    assert run <= develop and not build & develop
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^dependencies = \[\n(.*?)^\]", project, re.M | re.S)[1]
    needed = {normal(name) for name in re.findall(r'^  "([\w.-]+)', listed, re.M)}
    assert len(needed) > 10 and needed <= run | build | {"torch"}
