import re
import shlex
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
from cli import run
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
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
        assert line.startswith("bash requirements/install.sh ") and line.count("\n") == 1


def test_the_lines_to_try_run(tmp_path):
    """As they stand, on a smaller corpus; the others take it over from the run."""
    block = re.search(r"<!-- try -->\n```bash\n(.*?)```", README, re.S)[1]
    lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert [line[:2] for line in lines] == [["python", "-m"]] * 4
    for _, _, command, *options in lines:
        small = ["data.root.images=[160,40,40]"] if command == "itm.train" else []
        run(command.removeprefix("itm."), *options, *small, cwd=tmp_path)
    for made in ("demo/checkpoints/best.ckpt", "found.html", "attention.png"):
        assert (tmp_path / made).is_file(), made
    assert list(tmp_path.glob("outputs/localise/*/phrases.png"))


@pytest.mark.parametrize("page", ["README.md", "docs/losses.md", "docs/extend.md"])
def test_python_examples_run(page, tmp_path, monkeypatch):
    """Those that bring their own imports; the others are fragments."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = [x for x in re.findall(r"```python\n(.*?)```", text, re.S) if "import" in x]
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), {"__name__": "example"})


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *ROOT.glob("docs/*.md")]:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_named_choice_exists():
    for group, names in re.findall(r"^\| `(\w+)` \| (.*) \|$", README, re.M):
        for name in re.findall(r"`(\w+)`", names):
            assert (ROOT / "conf" / group / f"{name}.yaml").is_file(), (group, name)


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_notebooks_run(path, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # two threads on a busy machine wait for each other
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for table in path.parent.glob("*.csv"):
        shutil.copy(table, folder)
    if (ROOT / "benchmarks").is_dir():  # comes with the repository only
        (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()
