"""`--help`, `--version`, the list of commands, and output that is cut off."""

import subprocess
import sys
from pathlib import Path

import pytest

from itm import __main__ as overview
from itm import __version__
from itm.app.config import CONF
from itm.app.help import help_page

COMMANDS = sorted(path.stem for path in Path(CONF).glob("*.yaml"))


def run(*arguments):
    done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_options_with_defaults_and_meanings(command):
    page = help_page(command, [])
    assert f"python -m itm.{command}" in page and "--version" in page
    for name in ("_target_", "_partial_", "hydra.run.dir="):
        assert name not in page


def test_help_follows_the_choices():
    page = help_page("train", ["model=scan", "scheduler=cosine", "--help"])
    assert "scheduler=cosine    one of cosine, none, onecycle, plateau, step, warmup_cosine" in page
    assert "  scheduler.warmup=0.0" in page and "share of the total" in page
    assert "  lr=0.002" in page  # of the recipe
    assert "  optimizer.lr=0.002" in page
    assert "step_size" not in page.partition("scheduler=cosine    ")[2]


def test_every_option_of_training_itself_has_a_meaning():
    page = help_page("train", ["callbacks=early_stopping"])
    groups = ("optimizer", "scheduler", "trainer", "callbacks", "logger")
    for line in page.splitlines():
        option = line.strip().partition("=")[0]
        top = "." not in option and line.startswith("  ") and "=" in line.split()[0]
        if top or option.partition(".")[0] in groups and line.startswith("  "):
            assert line.strip().partition(" ")[2].strip(), line


CHOICES = [
    ("train", f"{group}={path.stem}")
    for group in ("model", "loss", "data", "text")
    for path in sorted(Path(CONF, group).glob("*.yaml"))
    if path.stem != "base"
]


@pytest.mark.parametrize(
    ("command", "choice"), [*CHOICES, *((command, None) for command in COMMANDS)]
)
def test_every_option_of_every_choice_has_a_meaning(command, choice):
    page = help_page(command, [] if choice is None else [choice])
    options = [x for x in page.splitlines() if x.startswith("  ") and "=" in x.split()[0]]
    assert [x for x in options if not x.strip().partition(" ")[2].strip()] == []


@pytest.mark.parametrize("command", ["evaluate", "search", "explain"])
def test_help_leaves_out_what_a_command_refuses(command):
    page = help_page(command, [])
    assert "  data.split=" in page and "  data.limit=" in page
    assert "data.vocab=" not in page and "data.batch_size=" not in page


def test_the_list_of_commands():
    assert sorted(overview.COMMANDS) == COMMANDS
    text = overview.overview()
    assert f"itm {__version__}" in text
    for command in COMMANDS:
        assert f"  {command} " in text


def test_the_console_script():
    assert run("itm", "--version") == (0, f"itm {__version__}\n", "")
    code, text, _ = run("itm", "report", "--version")
    assert (code, text) == (0, f"itm {__version__}\n")
    code, _, error = run("itm", "trian")
    assert code == 2 and "there is no command trian; did you mean train?" in error


@pytest.mark.parametrize("script", [["itm", "train"], ["itm-train"]])
def test_the_console_scripts_find_models_of_the_current_folder(script, tmp_path):
    """Unlike `python -m`, a script does not search there for modules."""
    (tmp_path / "mine.py").write_text("open('imported', 'w').close()\n")
    name, *rest = script
    command = [Path(sys.executable).with_name(name), *rest, "model._target_=mine.Matcher"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and (tmp_path / "imported").exists(), done.stderr


def test_a_reader_that_goes_away():
    command = f"{sys.executable} -m itm.report --help | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stderr == "" and done.stdout.count("\n") == 1
