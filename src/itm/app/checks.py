"""Find before training what would otherwise fail after it."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from itm.data.layout import Split

# Modules whose objects log nothing that `known_metrics` lacks.
OURS = ("itm.", "pytorch_lightning.")


def known_metrics() -> list[str]:
    """List what `itm.matcher` logs in a validation, and the loss."""
    import numpy as np  # late, like all imports here: `--help` need not wait for them

    from itm.metrics.retrieval import evaluate

    names = evaluate(np.eye(2, dtype=np.float32), np.arange(2))
    return [f"val/{name}" for name in names] + ["train/loss"]


def check_monitors(trainer: Any, matcher: Any) -> None:
    """Check that callbacks and schedule monitor a metric that is logged.

    A matcher or callback of the user may log further metrics; then any name is accepted.

    Raises:
        ValueError: an unknown metric.
    """
    kinds = [type(matcher), *map(type, trainer.callbacks)]
    if not all(f"{kind.__module__}.".startswith(OURS) for kind in kinds):
        return
    known = known_metrics()
    monitors = {type(c).__name__: getattr(c, "monitor", None) for c in trainer.callbacks}
    monitors["the scheduler"] = getattr(matcher.scheduler, "monitor", None)
    for owner, name in monitors.items():
        if name is None or name in known or name.startswith(("train/", "lr-")):
            continue
        near = get_close_matches(name, known, n=1)
        raise ValueError(
            f"monitor={name} of {owner}: no such metric; "
            f"{f'did you mean {near[0]}? ' if near else ''}choose from {', '.join(known)}"
        )


def check_protocol(split: Split) -> None:
    """Check that a split has the size that its protocol is defined on.

    Raises:
        ValueError: it has another size.
    """
    from itm.metrics.protocols import check_size

    try:
        check_size(split.protocol, split.num_images, len(split.captions))
    except ValueError as error:
        raise ValueError(
            f"split {split.name} of {split.folder}: {error} (data.protocol=full, data.test=SPLIT, "
            "or test=false)"
        ) from error
