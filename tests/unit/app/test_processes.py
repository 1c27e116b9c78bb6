"""The first of several processes is the same for all code, whoever starts them."""

import pytest
from lightning_fabric.utilities.rank_zero import rank_zero_only

from itm.app.processes import RANKS, check_launcher, is_first_process, silence_others
from itm.utils.log_files import say

TORCHRUN = {"TORCHELASTIC_RUN_ID": "1", "LOCAL_RANK": "0"}


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "0", "NODE_RANK": "0"}, True),
        ({"NODE_RANK": "1"}, False),  # started by hand on every node
        ({"NODE_RANK": "1", "LOCAL_RANK": "0"}, False),
        ({"LOCAL_RANK": "1"}, False),
        ({"SLURM_PROCID": "2"}, False),
        ({"JSM_NAMESPACE_RANK": "1"}, False),
        # torchrun in a task of srun on each node, which number the nodes in different orders
        ({**TORCHRUN, "RANK": "0", "GROUP_RANK": "0", "SLURM_PROCID": "1"}, True),
        ({**TORCHRUN, "RANK": "8", "GROUP_RANK": "1", "SLURM_PROCID": "0"}, False),
    ],
)
def test_one_process_is_the_first_and_speaks(environment, first, monkeypatch, capsys):
    for name in (*RANKS, "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() == first
    monkeypatch.setattr(rank_zero_only, "rank", 0)  # as Lightning reads NODE_RANK=1
    silence_others()
    say("16% of the words are unknown")  # before there is a trainer
    assert capsys.readouterr().out == ("16% of the words are unknown\n" if first else "")


def test_one_task_of_slurm_for_several_gpus_is_refused():
    """One GPU would train in silence."""
    check_launcher(4, 4)
    with pytest.raises(ValueError, match="ask for 4 processes, but SLURM started 1: .*ntasks-per"):
        check_launcher(1, 4)
