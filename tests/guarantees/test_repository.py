"""What pages and settings say about the repository is true."""

import re
from pathlib import Path

import itm

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "src/itm"
COMMANDS = {"train", "evaluate", "convert", "prepare", "search", "explain", "localise", "extract",
            "report"}  # fmt: skip
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
PACKAGES = sorted(path.parent.name for path in LIBRARY.glob("*/__init__.py"))


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def exists(module):
    place = ROOT.joinpath("src", *module.split("."))
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


def test_the_root_holds_the_commands_and_the_batch():
    names = {path.name for path in LIBRARY.iterdir() if path.is_file()}
    assert names <= {f"{name}.py" for name in COMMANDS} | {
        "__init__.py", "__main__.py", "batch.py", "py.typed",
    }  # fmt: skip
    assert len([name for name in names if name.endswith(".py")]) <= 13
    assert len(PACKAGES) <= 19


def test_the_rule_of_imports_names_every_module():
    layers = re.search(r"^layers = \[\n(.*?)^\]", text("pyproject.toml"), re.M | re.S)[1]
    assert sorted(re.findall(r"\w+", layers)) == sorted([*COMMANDS, *PACKAGES, "batch", "__main__"])


def test_the_version_stands_in_one_place():
    assert "version" not in re.findall(r"^(\w+) =", text("pyproject.toml"), re.M)
    cited = re.search(r"^version: (.*)$", text("CITATION.cff"), re.M)[1]
    assert cited == itm.__version__
    assert f"\n## {itm.__version__} (" in text("CHANGELOG.md")


def test_the_architecture_describes_the_tree():
    words = text("docs/architecture.md")
    assert re.findall(r"^\| `(\w+)` \| ", words, re.M) == PACKAGES
    for path in re.findall(rf"`((?:{'|'.join(PACKAGES)})/[\w/.]*)`", words):
        assert (LIBRARY / path).exists(), path
    rule = re.search(r"```\n(__main__\n.*?)```", words, re.S)[1].replace("(commands)", "")
    layers = re.search(r"^layers = \[\n(.*?)^\]", text("pyproject.toml"), re.M | re.S)[1]
    assert [line.split() for line in rule.strip().splitlines()] == [
        line.strip(' ",').split() for line in layers.strip().splitlines()
    ]


def test_the_reference_and_the_changelog_name_modules_that_exist():
    for page in ROOT.glob("docs/api/*.md"):
        for module in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.M):
            assert exists(module), f"{page.name}: {module}"
    rows = re.findall(r"^\| `itm.*? \| (.*) \|$", text("CHANGELOG.md"), re.M)
    modules = [name for row in rows for name in re.findall(r"`(itm[\w.]*)`", row)]
    assert len(modules) > 30
    assert [module for module in modules if not exists(module)] == []


def test_five_commands():
    targets = re.findall(r"^(\w+): ", text("Makefile"), re.M)
    assert re.findall(r"^\| `make (\w+)`", text("CONTRIBUTING.md"), re.M) == targets
    assert f".PHONY: {' '.join(targets)}\n" in text("Makefile")


def test_hints_install_extras_from_the_clone():
    """No package index has the distribution yet."""
    sources = [*LIBRARY.glob("**/*.py"), *ROOT.glob("conf/**/*.yaml"), *PAGES]
    found = [path.name for path in sources if "itm-lightning[" in path.read_text("utf-8")]
    assert found == []
    extras = re.findall(
        r"^(\w+) = \[", text("pyproject.toml").split("optional-dependencies]")[1], re.M
    )
    for path in sources:
        for names in re.findall(r"-e '\.\[([\w,]+)\]'", path.read_text("utf-8")):
            assert set(names.split(",")) <= set(extras), (path.name, names)
