import re
import subprocess
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_two_lines_are_what_ci_runs():
    for name in ("main-job", "tests"):
        line = subprocess.run(
            ["sed", "-n", f"/<!-- {name} -->/{{n;n;p}}", "README.md"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert line.startswith("python3 -m venv .venv") and line.count("\n") == 1


def test_the_python_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"```python\n(.*?)```", README, re.S):
        exec(compile(block, "README.md", "exec"), {})


def test_every_named_choice_exists():
    for group, names in re.findall(r"^\| `(\w+)` \| (.*) \|$", README, re.M):
        for name in re.findall(r"`(\w+)`", names):
            assert (ROOT / "conf" / group / f"{name}.yaml").is_file(), (group, name)


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_notebooks_run(path, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # two threads on a busy machine wait for each other
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
