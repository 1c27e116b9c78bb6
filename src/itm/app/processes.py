"""Find out which process of a training this is, before torch is loaded."""

import os

# 0 in the first process of a training. Started by hand on several nodes, each has a process
# without a LOCAL_RANK.
RANKS = ("LOCAL_RANK", "RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK", "NODE_RANK", "GROUP_RANK")


def is_first_process() -> bool:
    """Tell whether this is the first process, by variables of Lightning, torchrun, SLURM, LSF."""
    # torchrun numbers the nodes itself, perhaps in another order than the srun that starts it.
    names = ("RANK",) if "TORCHELASTIC_RUN_ID" in os.environ else RANKS
    return all(os.environ.get(name, "0") == "0" for name in names)


def silence_others() -> None:
    """Tell Lightning, and `itm.utils.log_files.say`, if this is not the first process.

    Until its trainer counts the processes, Lightning overlooks the number of a node.
    """
    from lightning_utilities.core.rank_zero import rank_zero_only  # late: `--help` is quick

    if not is_first_process():
        rank_zero_only.rank = 1  # type: ignore[attr-defined]


def check_launcher(processes: int, asked: int | None = None) -> None:
    """Check that a launcher and the trainer agree on the number of processes.

    Else every process would train alone, and all would write to one folder; or, under SLURM, one
    GPU would train where several were asked for.

    Args:
        processes: the processes of the trainer.
        asked: devices x nodes; None = as many.

    Raises:
        ValueError: they do not.
    """
    if asked not in (None, processes):
        raise ValueError(
            f"trainer.devices= and trainer.num_nodes= ask for {asked} processes, but SLURM started "
            f"{processes}: start a task for each, with as many --ntasks-per-node= as "
            "trainer.devices="
        )
    launched = int(os.environ.get("WORLD_SIZE") or processes)
    alone = processes == 1 and not is_first_process()
    if launched != processes or alone:
        count = f"one of {launched}" if launched > 1 else "not the first one"
        names = [name for name in ("WORLD_SIZE", *RANKS) if name in os.environ]
        raise ValueError(
            f"a launcher (torchrun, srun) started this process as {count}, but the trainer works "
            f"with {processes} (the environment has "
            f"{', '.join(f'{name}={os.environ[name]}' for name in names)}): set trainer=ddp, "
            "trainer.devices= and trainer.num_nodes= for all of them, or unset these variables "
            "for a run of its own"
        )
