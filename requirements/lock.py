"""Write the files of this folder: the pins of constraints.txt with hashes of all their files.

    pip install uv && python requirements/lock.py

Requirements with hashes make pip refuse every download with another content. pip cannot hash an
editable package; therefore it is installed in a last step, which finds all that it needs already
there, except torch: its builds for CPUs and GPUs have one version, and with hashes of both, pip
would always take the one for GPUs. There are three files:

    build.txt      what builds packages from source, without an environment of unknown content
    run.txt        what `pip install -e .` needs
    develop.txt    what `pip install -e '.[all,dev]'` needs
"""

import re
import subprocess
from pathlib import Path

FOLDER = Path(__file__).parent
PINS = FOLDER.parent / "constraints.txt"
PYTHON = "3.11.7"
BUILD = {
    "editables", "hatchling", "packaging", "pathspec", "pluggy", "setuptools", "tomlkit",
    "trove-classifiers",
}  # fmt: skip
HEADER = "# Written by requirements/lock.py. Install with --no-deps; see SECURITY.md.\n"


def compiled(*arguments: str | Path) -> dict[str, str]:
    """Run `uv pip compile` and return its entries by name."""
    command = ["uv", "pip", "compile", "--no-header", "--no-annotate", "--quiet", "--no-config"]
    command += ["--python-version", PYTHON, "--generate-hashes", *map(str, arguments)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    entries = re.split(r"(?m)^(?=\S)", text)
    return {entry.partition("==")[0]: entry for entry in entries if entry}


def main() -> None:
    """Write the three files."""
    pinned = compiled(PINS, "--no-deps")
    del pinned["torch"]
    # The intersection leaves out the libraries of CUDA, which torch needs on PyPI.
    run = compiled(FOLDER.parent / "pyproject.toml", "-c", PINS).keys() & pinned.keys()
    groups = {"build": BUILD, "run": run - BUILD, "develop": pinned.keys() - BUILD}
    for group, names in groups.items():
        entries = [pinned[name] for name in sorted(names)]
        (FOLDER / f"{group}.txt").write_text(HEADER + "".join(entries), encoding="utf-8")


if __name__ == "__main__":
    main()
