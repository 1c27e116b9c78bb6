"""Every module, path and command that README and docs name exists."""

import importlib
import importlib.util
import inspect
import re
import shlex
from pathlib import Path

import pytest
import yaml

from itm import list_models
from itm.app.arguments import read_arguments
from itm.app.config import compose
from itm.app.quoting import PATHS, TEXT

ROOT = Path(__file__).parents[2]
if not (ROOT / "docs").is_dir():
    pytest.skip("docs come with the repository only", allow_module_level=True)
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LOSSES = sorted((ROOT / "conf/loss").glob("*.yaml"))
FOLDERS = "src|tests|conf|docs|notebooks|benchmarks"


def named(pattern, text):
    """Return what a pattern finds, without endings that belong to the sentence."""
    return sorted({name.rstrip(".,:;") for name in re.findall(pattern, text)})


def resolve(name):
    """Import the longest module in a dotted name and get the rest as attributes."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[end:]:
            found = getattr(found, attribute)
        return found
    raise ModuleNotFoundError(name)


# The changelog also names what is gone.
@pytest.mark.parametrize(
    "page", [x for x in PAGES if x.name != "CHANGELOG.md"], ids=lambda path: path.name
)
def test_dotted_names_resolve(page):
    for name in named(r"(?<![\w./-])itm(?:\.[A-Za-z_]\w*)+", page.read_text("utf-8")):
        resolve(name)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_paths_exist(page):
    text = page.read_text("utf-8")
    for path in named(rf"(?<![\w./-])(?:{FOLDERS})/[\w./-]+", text):
        # conf/ of a reader's own folder; names that end in "_" or "-" go on with a placeholder
        if (page.name, path.split("/")[0]) != ("extend.md", "conf") and path[-1] not in "_-":
            assert (ROOT / path).exists(), path
    for path in named(r"`([a-z_]+/[a-z_/]+\.(?:py|html))`", text):
        assert any((ROOT / base / path).exists() for base in ("", "src", "src/itm")), path


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_commands_exist(page):
    for name in named(r"python3? -m ((?:itm|benchmarks)[\w.]*)", page.read_text("utf-8")):
        assert importlib.util.find_spec(name), name
        module = ROOT / ("src" if name.startswith("itm") else "") / name.replace(".", "/")
        command = module / "__main__.py" if module.is_dir() else module.with_suffix(".py")
        assert "__main__" in command.name or "__main__" in command.read_text("utf-8"), name


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_options_of_commands_exist(page):
    """Hydra composes each documented line; of a sweep, its first job."""
    for block in re.findall(r"```bash\n(.*?)```", page.read_text("utf-8"), re.S):
        for line in block.replace("\\\n", " ").splitlines():
            found = re.match(r"(?:python -m itm\.|itm )(\w+) (.*)", line)
            if found and "$" not in line and "--config-dir" not in line:
                command, options = found[1], shlex.split(found[2], comments=True)
                kept = [x for x in options if "=" in x and not x.startswith(("hydra.", "sweep="))]
                if "-m" in options or len(kept) < sum("=" in x for x in options):
                    kept = [re.sub(r"=([^\[{,]*),.*", r"=\1", x) for x in kept]
                compose(read_arguments(kept, command), command)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_tests_exist(page):
    """A test is named with its file; `bad_data_tests.md` leaves out the one that it names first."""
    text = page.read_text("utf-8")
    files = [path.read_text("utf-8") for path in sorted((ROOT / "tests").rglob("test_*.py"))]
    for name in named(r"`(test_\w+)`", text):
        assert any(f"def {name}(" in file for file in files), name
    for names, path in re.findall(r"((?:`test_\w+`[,\s]*)+)in\s+`(tests/\S+)`", text):
        for name in re.findall(r"test_\w+", names):
            assert f"def {name}(" in (ROOT / path).read_text("utf-8"), (name, path)


def test_options_that_keep_every_character_are_listed():
    text = (ROOT / "docs" / "training.md").read_text("utf-8").split("## Names of files")[1]
    sentences, paths = text.split("\n\nSentences:")[1].split("\n\n")
    assert re.findall(r"`([\w.]+)`", sentences) == list(TEXT)
    assert re.findall(r"`([\w.]+)`", paths) == list(PATHS)


def test_every_backbone_has_a_table_of_equations():
    """Aliases share the table of the model that they stand for."""
    text = (ROOT / "docs" / "models.md").read_text("utf-8")
    found = set()
    for section in text.split("## Which line is which equation")[1].split("### ")[1:]:
        heading, *lines = section.splitlines()
        found |= set(re.findall(r"`(\w+)`", heading))
        rows = [line.split("|")[1:-1] for line in lines if line.startswith("| ")][1:]
        methods = [re.fullmatch(r" `(itm[\w.]+)` ", method) for _, method in rows[1:]]
        assert len(methods) > 2 and all(methods), heading
        assert all(callable(resolve(method[1])) for method in methods), heading
    assert found == set(list_models()) - {"scan", "sgraf"}


def test_every_option_of_every_loss_is_listed():
    """With the default of its class, of `regions` with that of its file."""
    text = (ROOT / "docs" / "losses.md").read_text("utf-8").split("## Options")[1]
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    listed = {}
    for options, cell, _ in rows:
        names = re.findall(r"`(\w+)`", options)
        for loss, values in re.findall(r"`(\w+)` ([^`;]+?)(?=, `|;|$)", cell):
            found = zip(names, values.split(", "), strict=True)
            listed.setdefault(loss, {}).update({k: yaml.safe_load(v) for k, v in found})
    files = {path.stem: yaml.safe_load(path.read_text("utf-8")) for path in LOSSES}
    expected = {}
    for loss, values in files.items():
        target = values.get("_target_", "itm.losses.Neighborhood")
        defaults = inspect.signature(resolve(target)).parameters.values()
        expected[loss] = {x.name: x.default for x in defaults}
        if loss == "regions":
            expected[loss].update({k: v for k, v in values.items() if k != "defaults"})
    assert listed == expected


def test_a_wrong_name_is_noticed():
    for name in ("itm.nothing", "itm.losses.Nothing", "itm.losses.triplet.nothing"):
        with pytest.raises((ImportError, AttributeError)):
            resolve(name)
