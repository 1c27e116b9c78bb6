"""Find `conf/`, compose it, build what it describes, and read what Hydra knows about a run."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from threading import RLock
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf

from itm.utils.nested import flatten

_PACKAGED = Path(__file__).parents[1] / "conf"


_COMPOSING = RLock()  # Hydra has one state per process

CONF = str(_PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[3] / "conf")


def instantiate(node: Any, **arguments: Any) -> Any:
    """Build the object that a node describes; lists and dicts arrive as plain Python."""
    return hydra.utils.instantiate(node, _convert_="all", **arguments)


def target(node: DictConfig) -> Any:
    """Import the class or function that a node describes.

    Raises:
        ValueError: it cannot be imported.
    """
    try:
        return hydra.utils.get_object(node._target_)
    except (ImportError, ValueError) as error:
        raise ValueError(f"_target_={node._target_}: {_why(node._target_, error)}") from error


def _why(path: str, error: Exception) -> str:
    """Say in one line why a class cannot be imported, and name near ones of its module."""
    module, _, name = str(path).rpartition(".")
    try:
        near = get_close_matches(name, dir(import_module(module)), n=3)
    except (ImportError, ValueError):
        return " ".join(f"cannot be imported: {error}".split())
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"{module} has no {name}{hint}"


def compose(
    overrides: Sequence[str] = (), name: str = "train", with_hydra: bool = False
) -> DictConfig:
    """Compose the configuration of a command, as the command line would.

    Args:
        overrides: options.
        name: of the command.
        with_hydra: add Hydra's own node `hydra`.
    """
    from hydra.core.global_hydra import GlobalHydra  # late: the commands need it rarely

    with _COMPOSING:
        of_caller = GlobalHydra.instance().hydra
        GlobalHydra.instance().clear()
        try:
            with hydra.initialize_config_dir(CONF, version_base="1.3"):
                return hydra.compose(name, list(overrides), return_hydra_config=with_hydra)
        finally:
            GlobalHydra.instance().hydra = of_caller


def listed(value: Any) -> list[str]:
    """Make a list of an option that holds nothing, one path or a list of paths."""
    return [str(x) for x in (value if isinstance(value, ListConfig) else [value]) if x is not None]


def check_one_checkpoint(value: Any) -> None:
    """Check that `checkpoint=` of a command that uses one matcher is not a list.

    Raises:
        ValueError: it is.
    """
    if isinstance(value, ListConfig):
        raise ValueError(
            f"checkpoint=[{','.join(map(str, value))}] must be one path: only itm.evaluate "
            "averages the scores of several matchers"
        )


def output_folder() -> Path:
    """Find the folder that Hydra made for this run."""
    return Path(HydraConfig.get().runtime.output_dir)


def config_folders() -> list[str]:
    """List the folders that this run reads configurations from."""
    sources = HydraConfig.get().runtime.config_sources
    return [source.path for source in sources if source.schema == "file"]


def own_folders() -> list[str]:
    """List the folders of configurations that --config-dir names."""
    sources = HydraConfig.get().runtime.config_sources
    return [source.path for source in sources if source.provider == "command-line"]


def run_name() -> str:
    """Name a training run by its choices, such as "vsrn triplet scenes"."""
    choices = HydraConfig.get().runtime.choices
    return " ".join(str(choices[group]) for group in ("model", "loss", "data"))


def recorded_configuration(cfg: DictConfig) -> Any:
    """Return the configuration as it was written, with the numbers of the environment.

    `margin=${oc.decode:${oc.env:M}}` is another setting with another M. Texts stay references: they
    may be secrets or paths.
    """
    kept = copy.deepcopy(cfg)
    for name, text in flatten(OmegaConf.to_container(cfg)).items():
        if "${oc.env:" in str(text):  # the variable of an option that nobody reads may be missing
            value = OmegaConf.select(cfg, name, throw_on_resolution_failure=False)
            if isinstance(value, int | float):
                OmegaConf.update(kept, name, value)
    return OmegaConf.to_container(kept)
