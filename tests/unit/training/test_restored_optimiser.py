"""A run that is resumed with other options has the rates of one that had them from the start."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
)
from torch.optim.lr_scheduler import StepLR as TorchStepLR

from itm.training.optim import CosineLR, StepLR
from itm.training.restored_optimiser import apply_options

SCALES = (1.0, 0.1)  # "lr_scale" of two groups


def made(make, lr=1e-2):
    """What `Matcher.configure_optimizers` returns, for two groups."""
    groups = [
        {"name": name, "params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr * scale}
        for name, scale in zip(("main", "own"), SCALES, strict=True)
    ]
    if getattr(make, "func", None) is StepLR:
        groups[1] |= {"step_size": 2, "gamma": 0.8}
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9)
    return [optimizer], [{"scheduler": make(optimizer), "interval": "epoch"}]


def step(optimizer, scheduler, value=None):
    optimizer.step()
    scheduler.step(*([] if value is None else [value]))
    return [(group["lr"], group["momentum"]) for group in optimizer.param_groups]


def resume(before, after, done, lr=1e-2, then=None, values=None):
    """The optimiser and the scheduler of a run with other options after some steps."""
    (optimizer,), (config,) = made(before, lr)
    for i in range(done):
        step(optimizer, config["scheduler"], None if values is None else values[i])
    (again,), (restored,) = made(after, then or lr)
    again.load_state_dict(optimizer.state_dict())
    restored["scheduler"].load_state_dict(config["scheduler"].state_dict())
    trainer = SimpleNamespace(
        optimizers=[again], lr_scheduler_configs=[SimpleNamespace(**restored)], max_steps=-1,
        is_global_zero=True, progress_bar_callback=None,
    )  # fmt: skip
    apply_options(trainer, SimpleNamespace(configure_optimizers=lambda: made(after, then or lr)))
    return again, restored["scheduler"]


CHANGED = {
    "cosine": (partial(CosineLR, total=4), partial(CosineLR, total=12, end=0.1)),
    "warm-up": (partial(CosineLR, total=8, warmup=0.5), partial(CosineLR, total=20, warmup=0.1)),
    "step": (partial(StepLR, step_size=2), partial(StepLR, step_size=3, gamma=0.5)),
    "step of torch": (partial(TorchStepLR, step_size=2), partial(TorchStepLR, step_size=3)),
    "milestones": (
        partial(MultiStepLR, milestones=[2, 6], gamma=0.5),
        partial(MultiStepLR, milestones=[2, 6], gamma=0.1),
    ),
    "exponential": (partial(ExponentialLR, gamma=0.9), partial(ExponentialLR, gamma=0.5)),
    "constant": (
        partial(ConstantLR, factor=0.5, total_iters=9),
        partial(ConstantLR, factor=0.1, total_iters=2),
    ),
    "linear": (
        partial(LinearLR, start_factor=0.1, total_iters=3),
        partial(LinearLR, start_factor=0.3, total_iters=9),
    ),
    "polynomial": (
        partial(PolynomialLR, total_iters=4, power=2),
        partial(PolynomialLR, total_iters=12, power=1),
    ),
    "cosine of torch": (
        partial(CosineAnnealingLR, T_max=4, eta_min=1e-4),
        partial(CosineAnnealingLR, T_max=12),
    ),
    "restarts": (
        partial(CosineAnnealingWarmRestarts, T_0=2),
        partial(CosineAnnealingWarmRestarts, T_0=3, eta_min=1e-4),
    ),
    "longer restarts": (
        partial(CosineAnnealingWarmRestarts, T_0=3, T_mult=2),
        partial(CosineAnnealingWarmRestarts, T_0=2, T_mult=2),
    ),
    "cycle": tuple(
        partial(CyclicLR, base_lr=1e-3, max_lr=1e-2, step_size_up=3, mode="exp_range", gamma=gamma)
        for gamma in (1.0, 0.8)
    ),
}


@pytest.mark.parametrize("done", [1, 4])
@pytest.mark.parametrize("name", CHANGED)
def test_other_values_give_the_rates_of_one_long_run(name, done):
    """From the first step on, which the schedule before had already set; momentum, too."""
    before, after = CHANGED[name]
    (optimizer,), (config,) = made(after)
    expected = [step(optimizer, config["scheduler"]) for _ in range(10)][done - 1 :]
    again, scheduler = resume(before, after, done)
    found = [(group["lr"], group["momentum"]) for group in again.param_groups]
    assert scheduler.get_last_lr() == [rate for rate, _ in found]
    torch.testing.assert_close(
        [found, *(step(again, scheduler) for _ in range(10 - done))],
        expected,
        rtol=1e-9,
        atol=1e-15,
    )


SAME = {name: after for name, (_, after) in CHANGED.items() if name != "cycle"} | {
    "one cycle": lambda optimizer: OneCycleLR(
        optimizer, max_lr=[group["lr"] for group in optimizer.param_groups], total_steps=12
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_another_learning_rate_gives_the_rates_of_one_long_run(name):
    """Also above a lowest rate, which does not scale."""
    make = SAME[name]
    (optimizer,), (config,) = made(make, 3e-2)
    expected = [step(optimizer, config["scheduler"]) for _ in range(10)][4 - 1 :]
    again, scheduler = resume(make, make, 4, then=3e-2)
    found = [(group["lr"], group["momentum"]) for group in again.param_groups]
    torch.testing.assert_close(
        [found, *(step(again, scheduler) for _ in range(6))], expected, rtol=1e-9, atol=1e-15
    )


@pytest.mark.parametrize("name", CHANGED)
def test_the_same_options_change_no_bit(name, capsys):
    make = CHANGED[name][0]
    (optimizer,), (config,) = made(make)
    expected = [step(optimizer, config["scheduler"]) for _ in range(10)]
    again, scheduler = resume(make, make, 4)
    assert [step(again, scheduler) for _ in range(6)] == expected[4:]
    assert "resumed with" not in capsys.readouterr().out


def test_a_plateau_keeps_its_rate_and_drops_by_the_new_factor():
    values = [1.0, 2.0, 2.0]  # two drops by a half
    plateau = partial(ReduceLROnPlateau, patience=0)
    again, scheduler = resume(
        partial(plateau, factor=0.5), partial(plateau, factor=0.1), 3, values=values
    )
    rates = [1e-2 / 4, 1e-3 / 4]
    assert [group["lr"] for group in again.param_groups] == pytest.approx(rates)
    found = step(again, scheduler, 3.0)
    assert [rate for rate, _ in found] == pytest.approx([rate / 10 for rate in rates])


class Halved(LRScheduler):
    """A schedule of a user, which computes each rate from the one before."""

    def __init__(self, optimizer, factor=0.5):
        self.factor = factor
        super().__init__(optimizer)

    def get_lr(self):
        return [group["lr"] * self.factor for group in self.optimizer.param_groups]


def test_a_schedule_without_a_closed_form_says_that_it_follows_later(capsys):
    again, _ = resume(Halved, partial(Halved, factor=0.1), 2)
    assert "resumed with scheduler.factor 0.5 -> 0.1 (after the next epoch)" in (
        capsys.readouterr().out
    )
    assert again.param_groups[0]["lr"] == pytest.approx(1e-2 / 2**3)  # once when it was made


def test_another_rate_of_several_schedules_is_refused():
    def make(optimizer):
        parts = [LinearLR(optimizer, total_iters=2), CosineAnnealingLR(optimizer, 4)]
        return SequentialLR(optimizer, parts, [2])

    with pytest.raises(ValueError, match=r"cannot change optimizer.lr .* under SequentialLR.*0.01"):
        resume(make, make, 3, then=1.0)


def several(milestone=2, gamma=0.9):
    def make(optimizer):
        parts = [ConstantLR(optimizer, 0.5, 2), ExponentialLR(optimizer, gamma)]
        return SequentialLR(optimizer, parts, [milestone])

    return make


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (several(), several(milestone=3), r"scheduler.milestones \[2\] -> \[3\] of SequentialLR"),
        (several(), several(gamma=0.8), r"scheduler.gamma 0.9 -> 0.8 of ExponentialLR"),
        (
            partial(MultiStepLR, milestones=[2, 6]),
            partial(MultiStepLR, milestones=[3, 3]),
            r"scheduler.milestones \[2, 6\] -> \[3, 3\] of MultiStepLR: resume it with \[2, 6\]",
        ),
        (
            partial(ReduceLROnPlateau, min_lr=0.0),
            partial(ReduceLROnPlateau, min_lr=1e-3),
            r"scheduler.min_lr \[0.0, 0.0\] -> \[0.001, 0.001\]",
        ),
    ],
)
def test_values_that_the_checkpoint_keeps_are_not_passed_over(before, after, said):
    """The schedule went on with the milestones of before, without a word."""
    values = [1.0] * 3 if getattr(before, "func", None) is ReduceLROnPlateau else None
    with pytest.raises(ValueError, match=said):
        resume(before, after, 3, values=values)


@pytest.mark.parametrize(
    "make", [several(), lambda optimizer: LambdaLR(optimizer, lambda epoch: 0.9**epoch)]
)
def test_schedules_with_the_same_values_go_on(make):
    """Also with a function, which is another object in each process."""
    (optimizer,), (config,) = made(make)
    expected = [step(optimizer, config["scheduler"]) for _ in range(6)]
    again, scheduler = resume(make, make, 3)
    assert [step(again, scheduler) for _ in range(3)] == expected[3:]
