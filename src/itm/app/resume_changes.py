"""Decide which options a resumed run may change, and describe what changes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from itm.app.arguments import config_dir
from itm.app.resume_options import FILES, compose_options, read_recorded, recorded_values
from itm.utils.log_files import log_later
from itm.utils.nested import flatten

# A resumed run may change these. All others affect weights, words or batches.
FREE = (
    "max_epochs", "gradient_clip_val", "margin", "warmup_steps", "warmup_epochs", "lr",
    "weight_decay", "step_size", "gamma",
    "test", "compile", "chunk_size", "deterministic", "trainer", "callbacks", "logger", "loss",
    "optimizer", "scheduler", "decay_of_text", "data.batch_size", "data.eval_batch_size",
    "data.workers", "data.pin_memory", "data.cache_words", "data.resident", "data.root",
    "data.test", "data.protocol", "resume", "overwrite", "model.text.path",
)  # fmt: skip
# Of these, changes of the following make another training; it is recorded with the results.
TRAINED_WITH = (
    "gradient_clip_val", "margin", "warmup_steps", "warmup_epochs", "lr", "weight_decay",
    "step_size", "gamma", "loss", "optimizer", "scheduler", "decay_of_text",
    "data.batch_size", "data.resident", "trainer.precision", "trainer.devices", "trainer.num_nodes",
    "trainer.accumulate_grad_batches", "trainer.gradient_clip_val",
    "trainer.gradient_clip_algorithm", "trainer.limit_train_batches", "trainer.overfit_batches",
    "trainer.sync_batchnorm", "trainer.val_check_interval", "trainer.check_val_every_n_epoch",
    "callbacks",
)  # fmt: skip
# Except these: they say something, write last.ckpt, or decide when the training ends.
UNTRAINED = (
    "callbacks.last", "callbacks.health", "callbacks.epoch_line", "callbacks.learning_rate",
    "callbacks.early_stopping.patience",
)  # fmt: skip
LENGTHS = ("max_epochs", "trainer.max_epochs", "trainer.max_steps")
# It cannot change these: the first three rows set values that the checkpoint holds and restores.
FIXED = (
    "loss.temperature", "loss.learn", "loss.scale", "loss.bias", "loss.init_negative_scale",
    "loss.init_shift", "loss.pos_weight", "loss.num_labels", "optimizer.betas",
    "optimizer.momentum", "optimizer.amsgrad", "optimizer.centered",
    "loss._target_", "optimizer._target_", "scheduler._target_", "callbacks.checkpoint.monitor",
    "callbacks.checkpoint.mode", "trainer.limit_val_batches",
)  # fmt: skip
# Options of schedules that are applied to a restored one; all others are part of its state.
APPLIED = (
    "step_size", "gamma", "total", "warmup", "end", "factor", "patience", "cooldown", "threshold",
    "monitor", "T_max", "eta_min", "start_factor", "end_factor", "total_iters", "power",
)  # fmt: skip
RATES = ("lr", "optimizer.lr")  # a plateau schedule keeps only the current rate
# OneCycleLR plans all steps at the beginning.
PLANNED = (
    *RATES, "max_epochs", "trainer.max_epochs", "trainer.max_steps", "data.batch_size",
    "trainer.accumulate_grad_batches", "trainer.limit_train_batches",
)  # fmt: skip


def check_changes(
    before: Sequence[str],
    now: Sequence[str],
    kept: Mapping[str, Any] | None = None,
    varied: Collection[str] = (),
) -> None:
    """Compare a run's options with those that it is resumed with; print what changes.

    Args:
        before: recorded options.
        now: options of the resumed run.
        kept: recorded values, see `recorded_values`; they show files that have changed since.
        varied: options that the sweep of this job varies.

    Raises:
        ValueError: an option differs that a resumed run cannot change.
    """
    told = allowed_changes(before, now, kept or {}, varied)
    if told:
        warning = f"warning: resuming with other options than before: {', '.join(told)}"
        print(warning)
        log_later(warning)  # Hydra has not opened train.log yet


def allowed_changes(
    before: Sequence[str],
    now: Sequence[str],
    kept: Mapping[str, Any],
    varied: Collection[str] = (),
) -> list[str]:
    """List what changes, such as "lr 0.02 -> 0.001"; the arguments are those of `check_changes`.

    Raises:
        ValueError: an option differs that a resumed run cannot change.
    """
    old, new = _composed(before, now, kept), compose_options(now, now)
    if old is None or new is None:
        return []  # a wrong option; Hydra reports it next
    changes = _changes(old, new, kept)
    kind = _schedule(new)
    shown = {name: f"{name} {a} -> {b}" for name, (a, b) in changes.items()}
    wrong = [
        name
        for name in shown
        if _is_fixed(name, changes[name], kind)
        or (name == "data.eval_batch_size" and _validates_a_part(new))
        or _is_in(name, varied)
    ]
    # Another class has other options, which would only hide it.
    classes = tuple(name.removesuffix("_target_") for name in wrong if name.endswith("._target_"))
    fixed = [shown[x] for x in wrong if x.endswith("._target_") or not x.startswith(classes)]
    planned = kind == "OneCycleLR" and set(wrong) <= set(PLANNED)
    if fixed:
        raise ValueError(
            f"a resumed run cannot change {', '.join(fixed)}: weights, words, order of the "
            "batches, best score and state of loss, optimiser and schedule belong to the recorded "
            "options; start another run, from these weights with init=RUN_FOLDER"
            + (". scheduler=onecycle planned all its steps at the beginning" if planned else "")
            + (". The jobs of a sweep are continued by their number" if varied else "")
        )
    return [text for name, text in shown.items() if name not in ("resume", "overwrite")]


def changes_of_training(folder: Path, now: Sequence[str]) -> list[str]:
    """List the options that make a training other than what it was when the run began.

    Args:
        folder: folder of the run, with its record.
        now: options of the resumed run.

    Returns:
        Texts such as "lr 0.02 -> 0.001"; changes of workers, paths or logging are none.
    """
    try:
        before, kept = read_recorded(folder, config_dir(now)), recorded_values(folder)
    except ValueError:
        return []  # without its record a run is continued by the name of its checkpoint
    old, new = _composed(before, now, kept), compose_options(now, now)
    if old is None or new is None:
        return []
    changes = _changes(old, new, kept)
    names = [name for name in changes if _makes_another_training(name, new)]
    return [f"{name} {changes[name][0]} -> {changes[name][1]}" for name in names]


def _composed(
    before: Sequence[str], now: Sequence[str], kept: Mapping[str, Any]
) -> DictConfig | None:
    """Compose recorded options; without the files that they choose, take the recorded values."""
    cfg = compose_options(before, now)
    if cfg is None and kept:
        cfg = OmegaConf.create()
        for name, value in kept.items():
            OmegaConf.update(cfg, name, value)
    return cfg


def _makes_another_training(name: str, new: DictConfig) -> bool:
    from itm.training.optim import LENGTHS as SPANS  # late: loads torch

    if name in LENGTHS:  # the training of another length, unless the schedule spans the whole
        schedule = new.get("scheduler") or {}
        return any(key in schedule and schedule[key] is None for key in SPANS)
    if _is_in(name, UNTRAINED):
        return False
    return not _is_in(name, FREE) or _is_in(name, TRAINED_WITH)


def _is_in(name: str, options: Collection[str]) -> bool:
    """Tell whether an option is one of these, or inside one of them."""
    return any(f"{name}.".startswith(f"{option}.") for option in options)


def _schedule(cfg: DictConfig) -> str:
    """Return the name of the schedule's class."""
    return str((cfg.get("scheduler") or {}).get("_target_")).rpartition(".")[2]


def _validates_a_part(cfg: DictConfig) -> bool:
    """Tell whether the number of validated images depends on the size of batches."""
    limit = (cfg.get("trainer") or {}).get("limit_val_batches")
    return limit not in (None, 0) and not (isinstance(limit, float) and limit == 1)


def _is_fixed(name: str, values: tuple[Any, Any], schedule: str) -> bool:
    """Tell whether a resumed run cannot change an option.

    Args:
        name: name of the option.
        values: the recorded and the new value.
        schedule: name of the schedule's class.
    """
    if name == "trainer.limit_val_batches" and 0 in values:
        return False  # no validation, so no best score of another part
    if name in FIXED or not _is_in(name, FREE):
        return True
    if (
        schedule == "OneCycleLR"
        and name in PLANNED
        or schedule.endswith("Plateau")
        and name in RATES
    ):
        return True
    group, _, last = name.rpartition(".")
    if last == "_target_" and any(str(x).endswith("WeightAveraging") for x in values):
        return True  # the checkpoint's weights are an average, or not
    if group == "scheduler" and last not in APPLIED:
        return True
    return last == "step_size" and None in values  # with and without a schedule


def _changes(
    old: DictConfig, new: DictConfig, kept: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Map options whose text and value differ to both values."""
    before, now = flatten(OmegaConf.to_container(old)), flatten(OmegaConf.to_container(new))
    for name in set(before) & set(kept) - set(FILES):
        if str(before[name]) != str(kept[name]):
            before[name] = kept[name]  # a file that sets it has changed since
    changes = {}
    for name in {**before, **now}:
        values = _resolved(old, before, name), _resolved(new, now, name)
        if _differ(name, before.get(name), now.get(name)) and _differ(name, *values):
            changes[name] = values
    return changes


def _differ(name: str, a: Any, b: Any) -> bool:
    from itm.runs.run_files import BATCHES  # late: a run that is not resumed need not load numpy

    return a != b or (BATCHES.fullmatch(name) is not None and type(a) is not type(b))


def _resolved(cfg: DictConfig, flat: dict[str, Any], name: str) -> Any:
    """Get a value; a reference such as ${lr} is looked up, except for those to Hydra."""
    try:
        return OmegaConf.select(cfg, name) if "${" in str(flat.get(name)) else flat.get(name)
    except OmegaConfBaseException:
        return flat[name]
