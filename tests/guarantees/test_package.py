"""The wheel, installed elsewhere, brings its configuration along and trains from any folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel's content in a folder that comes before the source tree on the path."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(folder)]
    done = subprocess.run([*command, str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_it_holds_the_configuration_the_templates_the_types_and_the_licence(installed):
    ours = {path.relative_to(ROOT / "conf") for path in ROOT.glob("conf/**/*.*")}
    there = {p.relative_to(installed / "itm/conf") for p in installed.glob("itm/conf/**/*.*")}
    assert ours == there and ours
    assert (installed / "itm/py.typed").is_file()
    templates = {path.name for path in ROOT.glob("src/itm/visual/templates/*")}
    there = {path.name for path in installed.glob("itm/visual/templates/*")}
    assert templates == there and "layout.html" in there
    (metadata,) = installed.glob("*.dist-info")
    assert (metadata / "licenses/LICENSE").is_file()
    scripts = (metadata / "entry_points.txt").read_text()
    for path in sorted(ROOT.glob("src/itm/*.py")):
        if "\ndef main() -> None:" in path.read_text():
            assert f"itm-{path.stem} = itm.{path.stem}:main" in scripts


def test_it_trains_from_an_unrelated_folder(installed, tmp_path):
    env = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    where = [sys.executable, "-c", "import itm; print(itm.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=env, capture_output=True, text=True).stdout
    assert found.startswith(str(installed))
    arguments = ["trainer=fast", "model.embed_dim=16", "model.word_dim=8", "hydra.run.dir=run"]
    done = subprocess.run(
        [sys.executable, "-m", "itm.train", *arguments],
        cwd=tmp_path, env=env, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "run/results.json").is_file()
