"""Build optimiser and learning-rate schedule of a configuration, and check them before training."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from itm.app.choices import SHARED, group_files
from itm.app.config import instantiate, target

if TYPE_CHECKING:
    from itm.training.optim import Schedule

# What classes of torch and of users raise for a wrong value.
WRONG = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, AssertionError)


def build_optimizer(cfg: DictConfig) -> Any:
    """Return a function of parameter groups that makes the optimiser.

    Raises:
        ValueError: there is no optimiser, or its class does not take an argument or a value.
    """
    from itm.training.optim_values import check_values  # late, like all of training

    if cfg.get("optimizer") is None:
        raise ValueError(
            f"training needs an optimizer: choose from {', '.join(group_files('optimizer'))}"
        )
    node = _plain(cfg.optimizer, "optimizer")
    if node.get("weight_decay") == 0 and "weight_decay" not in _parameters(node):
        del node["weight_decay"]  # of the chosen file; a class without it has none
    _check_arguments(node, "optimizer")
    values: Any = OmegaConf.to_container(node)
    check_values("optimizer", target(node), values)
    return instantiate(node, _partial_=True)


def build_schedule(cfg: DictConfig) -> Schedule | None:
    """Return the learning-rate schedule; None for a constant rate.

    `interval` and `monitor` of its node set when it steps; all other options belong to its class.

    Raises:
        ValueError: the class does not take an argument or a value.
    """
    from itm.training.optim import Schedule  # late, like all that imports torch

    if cfg.get("scheduler") is None:
        return None
    node = _plain(cfg.scheduler, "scheduler")
    if "step_size" in node and node.step_size is None:
        return None
    when = {key: node.pop(key) for key in ("interval", "monitor") if key in node}
    _check_arguments(node, "scheduler")
    return Schedule(instantiate(node, _partial_=True), **when)


def check_optimisation(matcher: Any, trainer: Any, batches: int | None = None) -> None:
    """Step optimiser and schedule of a dummy parameter, so that wrong values fail before training.

    Args:
        matcher: with its optimiser and schedule.
        trainer: knows the length of the training.
        batches: that an epoch trains on, or None if unknown.

    Raises:
        ValueError: a class refuses a value, the length of the training is unknown, or a schedule
            ends before the training.
    """
    import torch

    endless = trainer.max_epochs in (None, -1) and trainer.max_steps == -1
    like = SimpleNamespace(
        max_epochs=trainer.max_epochs,
        max_steps=trainer.max_steps,
        estimated_stepping_batches=float("inf") if endless else 1000,  # known with the data only
    )
    try:
        device = getattr(getattr(trainer, "strategy", None), "root_device", None)
        parameter = torch.nn.Parameter(torch.zeros(1, device=device))
        optimizer = matcher.optimizer([{"params": [parameter]}])
        parameter.grad = torch.zeros_like(parameter)
        optimizer.step(lambda: torch.zeros(()))  # SparseAdam refuses the gradient only here
    except (*WRONG, RuntimeError) as error:
        raise ValueError(f"optimizer: {error}") from error
    if matcher.scheduler is not None:
        try:
            config = matcher.scheduler.configure(optimizer, like)
        except WRONG as error:
            text = str(error)
            raise ValueError(text if "scheduler" in text else f"scheduler: {text}") from error
        if batches is not None and not endless:
            _check_length(matcher.scheduler, config, trainer, batches)


def _check_length(schedule: Any, config: dict[str, Any], trainer: Any, batches: int) -> None:
    """Refuse a cycle that ends before the training: torch would raise in the middle of it."""
    given = getattr(schedule.make, "keywords", {})
    total = getattr(config["scheduler"], "total_steps", None)  # of OneCycleLR
    if total is None or (given.get("total_steps", 0) is None and "epochs" not in given):
        return
    epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
    steps = epochs
    if config["interval"] == "step":
        steps = epochs * math.ceil(batches / trainer.accumulate_grad_batches)
        steps = steps if trainer.max_steps == -1 else min(steps, trainer.max_steps)
    if steps > total:
        raise ValueError(
            f"scheduler: the cycle has {total} {config['interval']}s, the training {steps:g}: set "
            f"scheduler.total_steps={steps:g}, or null for the whole training"
        )


def check_used(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Check that the top-level values of a recipe have an effect if the user gives them.

    Raises:
        ValueError: a value has none, as in `step_size=5 scheduler=cosine`.
    """
    for line in values_in_vain(cfg, overrides, HydraConfig.get().runtime.choices):
        raise ValueError(line)


def values_in_vain(
    cfg: DictConfig, overrides: Sequence[str], choices: Mapping[str, Any]
) -> Iterator[str]:
    """Say of each top-level value without effect why it has none."""
    text = OmegaConf.to_yaml(cfg)
    for option in overrides:
        name, _, value = option.lstrip("+").partition("=")
        if name not in SHARED or f"${{{name}}}" in text:
            continue
        full = SHARED[name]
        if OmegaConf.select(cfg, full) is None:
            group = full.partition(".")[0]
            yield f"{option} has no effect: {group}={choices.get(group)} has no {name}"
        else:
            yield (
                f"{option} has no effect, because {full}={OmegaConf.select(cfg, full)} is set on "
                f"its own: set {full}={value}"
            )


def _plain(node: Any, name: str) -> DictConfig:
    if not isinstance(node, DictConfig) or "_target_" not in node:
        raise ValueError(
            f"{name}={node} names no class: choose from {', '.join(group_files(name))}, or give "
            f"{name}._target_=CLASS, or all options at once, '{name}={{_target_: CLASS, ...}}'"
        )
    return OmegaConf.create(OmegaConf.to_container(node, resolve=True))  # type: ignore[return-value]


def _parameters(node: DictConfig) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of the class of a node, of which the first is what it works on."""
    return inspect.signature(target(node)).parameters


def _check_arguments(node: DictConfig, name: str) -> None:
    """Refuse arguments that a class does not take; they would fail only when training starts."""
    taken = _parameters(node)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
        return
    wrong = [str(key) for key in node if not str(key).startswith("_") and key not in taken]
    if wrong:
        raise ValueError(
            f"{node._target_} does not take {', '.join(f'{name}.{key}' for key in wrong)}; "
            f"it takes {', '.join(list(taken)[1:])}. ~{name}.{wrong[0]} "
            "leaves out what the chosen file sets"
        )
    needed = [
        key
        for key, parameter in list(taken.items())[1:]
        if parameter.default is parameter.empty and key not in node
    ]
    if needed:
        raise ValueError(
            f"{node._target_} needs {', '.join(f'{name}.{key}=...' for key in needed)}"
        )
