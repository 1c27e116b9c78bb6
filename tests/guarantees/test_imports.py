"""Losses and metrics need few packages; no import closes a circle; commands are short."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import itm
from itm.__main__ import COMMANDS

SOURCE = Path(itm.__file__).parent

HEAVY = {
    "pytorch_lightning", "lightning", "hydra", "omegaconf", "transformers", "matplotlib",
}  # fmt: skip

USE = """
import sys
import torch
import itm.losses, itm.metrics

scores = torch.eye(4)
for loss in (itm.losses.Triplet(), itm.losses.Logistic(), itm.losses.Neighborhood()):
    loss(scores)
itm.losses.SAM(), itm.losses.MultiLabel()
assert itm.metrics.evaluate(scores, caption_image=range(4))["rsum"] == 600
print(*{name.partition(".")[0] for name in sys.modules})
"""


def test_losses_and_metrics_bring_neither_lightning_nor_hydra():
    done = subprocess.run([sys.executable, "-c", USE], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "torch" in loaded and not loaded & HEAVY


def module_of(file):
    return ".".join(file.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")


def imports(node):
    """Names of what a module imports, also within functions, but not for type checkers alone."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from imports(child)


def test_no_import_closes_a_circle_not_even_inside_a_function():
    files = {module_of(file): file for file in SOURCE.rglob("*.py")}
    graph = {}
    for module, file in files.items():
        found = imports(ast.parse(file.read_text(encoding="utf-8")))
        names = {name if name in files else name.rpartition(".")[0] for name in found}
        graph[module] = names & files.keys() - {module}
    assert "itm.layers.text" in graph["itm.models.vsrn.vsrn"]
    TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_short(command):
    lines = (SOURCE / f"{command}.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 125, "move what is neither reading options nor printing to the library"


def test_the_root_holds_only_the_commands_and_the_batch():
    expected = {"__init__", "__main__", "batch", *COMMANDS}
    assert {file.stem for file in SOURCE.glob("*.py")} == expected
