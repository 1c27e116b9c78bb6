"""Where `conf/` is, and Hydra's compose and instantiate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

_PACKAGED = Path(__file__).parents[1] / "conf"


CONF = str(_PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[3] / "conf")


def instantiate(node: Any, **arguments: Any) -> Any:
    """Build the object a node describes; lists and dicts arrive as plain Python."""
    return hydra.utils.instantiate(node, _convert_="all", **arguments)


def compose(overrides: Sequence[str] = (), name: str = "train") -> DictConfig:
    """The configuration of an entry point, as the command line would make it."""
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(CONF, version_base="1.3"):
        return hydra.compose(name, list(overrides))
