"""Find the checkpoint that a run continues from; loads no torch, so that refusals are quick."""

from __future__ import annotations

from pathlib import Path

from itm.utils.log_files import say


def find_checkpoint(resume: str | bool | None, out: Path) -> str | None:
    """Find the checkpoint to continue from.

    In a run folder, this is `last.ckpt`, or `best.ckpt` if `last.ckpt` is damaged.

    Args:
        resume: a run folder, a checkpoint, True for this run's own folder, or None.
        out: this run's own folder.

    Returns:
        Its path; None if `resume` is None, or True in a folder without checkpoints.

    Raises:
        FileNotFoundError: `resume` names a place without a checkpoint.
        ValueError: all checkpoints there are damaged.
    """
    if not resume:
        return None
    from itm.utils.archive import damage  # late, because it loads numpy

    path = out if resume is True else Path(resume)
    names = [path / "checkpoints" / name for name in ("last.ckpt", "best.ckpt")]
    is_file = path.suffix == ".ckpt" and not path.is_dir()
    files = [file for file in ([path] if is_file else names) if file.is_file()]
    if not files and resume is True:
        return None  # the first attempt of a job that may be restarted
    if not files:
        raise FileNotFoundError(
            f"resume={resume}: no checkpoint at {path if is_file else names[0]}"
        )
    damages: list[str] = []
    for file in files:
        what = damage(file)
        if what is None:
            if damages:
                text = f"{'; '.join(damages)}: continuing from {file}"
                say(text)
            return str(file)
        damages.append(f"cannot read {file}: {what}")
    raise ValueError(f"resume={resume}: {'; '.join(damages)}; start again, or from weights (init=)")
