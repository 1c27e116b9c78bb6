"""Optimisers and schedules from the command line, their recipes, and what is checked beforehand."""

import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from itm.app.batch_limits import epoch_batches
from itm.app.choices import group_files, rewrite_choices
from itm.app.config import compose
from itm.app.optimisation import build_optimizer, build_schedule, check_optimisation, check_used
from itm.data.sampler import PairSampler
from itm.training.optim import CosineLR, Schedule, StepLR

TRAINER = SimpleNamespace(max_epochs=10, max_steps=-1, estimated_stepping_batches=50)


def made(*options, trainer=TRAINER):
    """Build what the options say, for two groups of parameters with different rates."""
    cfg = compose(options)
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(2)]
    optimizer = build_optimizer(cfg)(groups)
    optimizer.param_groups[1]["lr"] *= 0.1
    optimizer.param_groups[1]["lr_scale"] = 0.1
    schedule = build_schedule(cfg)
    return optimizer, None if schedule is None else schedule.configure(optimizer, trainer)


def rates(*options, count):
    """The rate of the first group before each of so many steps of the schedule."""
    optimizer, config = made(*options)
    found = []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        config["scheduler"].step()
    return found


@pytest.mark.parametrize("choice", group_files("optimizer"))
def test_every_optimiser_makes_a_step(choice):
    optimizer, _ = made(f"optimizer={choice}")
    parameter = optimizer.param_groups[0]["params"][0]
    parameter.grad = torch.ones(1)
    optimizer.step()
    assert parameter.item() < 0


@pytest.mark.parametrize("choice", group_files("scheduler"))
@pytest.mark.parametrize("model", ["vsrn", "two_branch_embedding"])
def test_a_chosen_schedule_has_nothing_of_the_recipe(choice, model):
    """The recipes set a step schedule, or a constant rate; an explicit choice wins over both."""
    chosen = compose([f"model={model}", "data=f30k", f"scheduler={choice}", "lr=1"])
    alone = compose([f"model={model}", "data=f30k", f"scheduler={choice}", "lr=1", "~recipe"])
    if choice != "step":
        assert chosen.scheduler == alone.scheduler
    if choice != "none":
        assert chosen.scheduler._target_ == alone.scheduler._target_


def test_the_rate_of_the_recipe_reaches_adam_only():
    recipe = ["model=scan", "data=coco"]
    for choice, rate in (("adam", 5e-4), ("adamw", 5e-4), ("radam", 5e-4), ("sgd", 0.01)):
        optimizer, _ = made(*recipe, f"optimizer={choice}")
        assert optimizer.param_groups[0]["lr"] == rate
    assert made(*recipe, "optimizer=sgd", "optimizer.lr=3")[0].param_groups[0]["lr"] == 3
    assert made(*recipe, "lr=3")[0].param_groups[0]["lr"] == 3


def test_the_class_of_the_recipe_gives_way_to_a_choice():
    recipe = ["optimizer_class=torch.optim.AdamW", "weight_decay=0.3"]  # as a recipe would
    first = made(*recipe)[0]
    assert type(first) is torch.optim.AdamW and first.param_groups[0]["weight_decay"] == 0.3
    second = made(*recipe, "optimizer=adam")[0]
    assert type(second) is torch.optim.Adam and second.param_groups[0]["weight_decay"] == 0


def test_step():
    options = ("lr=1", "step_size=2", "gamma=0.5")
    assert rates(*options, count=5) == [1, 1, 0.5, 0.5, 0.25]
    assert rates(*options, "scheduler.step_size=1", count=3) == [1, 0.5, 0.25]
    assert made("step_size=null")[1] is None and made("scheduler=none")[1] is None
    assert made(*options)[1]["interval"] == "epoch"
    assert made(*options, "scheduler.interval=step")[1]["interval"] == "step"


def test_cosine():
    """Against torch's schedule, and the formula after a warm-up."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    expected = []
    for _ in range(10):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    assert rates("lr=1", "scheduler=cosine", count=10) == pytest.approx(expected)
    given = ("lr=1", "scheduler=warmup_cosine", "scheduler.end=0.2")
    assert made(*given)[1]["interval"] == "step"
    found = rates(*given, count=60)
    assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    for step in range(5, 50):
        share = 0.2 + 0.8 * (1 + math.cos(math.pi * (step - 5) / 45)) / 2
        assert found[step] == pytest.approx(share)
    assert found[50:] == pytest.approx([0.2] * 10)


@pytest.mark.parametrize(("total", "warmup"), [(1, 0.6), (2, 0.9), (3, 0.9), (10, 0.95)])
def test_a_warm_up_that_fills_the_whole_schedule(total, warmup):
    """Each of these is rounded to all epochs."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule, found = CosineLR(optimizer, total, warmup, end=0.25), []
    for _ in range(total + 2):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert found == pytest.approx([*((t + 1) / total for t in range(total)), 0.25, 0.25])


def test_one_cycle_keeps_the_rates_of_the_groups_apart():
    optimizer, config = made("lr=1", "scheduler=onecycle")
    assert config["interval"] == "step" and config["scheduler"].total_steps == 50
    first, second = [], []
    for _ in range(49):
        first.append(optimizer.param_groups[0]["lr"])
        second.append(optimizer.param_groups[1]["lr"])
        optimizer.step()
        config["scheduler"].step()
    assert max(first) == pytest.approx(1, rel=0.01) and first[0] == pytest.approx(1 / 25)
    assert second == pytest.approx([rate / 10 for rate in first])


@pytest.mark.parametrize("option", ["scheduler.max_lr=1", "lr=1"])
def test_one_rate_of_a_cycle_is_scaled_for_each_group(option):
    """As a rate of the optimiser is, so that a text encoder keeps its share of it."""
    optimizer, _ = made(option, "scheduler=onecycle")
    main, scaled = (group["max_lr"] for group in optimizer.param_groups)
    assert (main, scaled) == pytest.approx((1, 0.1))


def test_plateau():
    _, config = made("scheduler=plateau", "scheduler.monitor=val/i2t_r1")
    assert (config["monitor"], config["interval"]) == ("val/i2t_r1", "epoch")
    with pytest.raises(ValueError, match="scheduler.mode=min waits for val/rsum to fall"):
        made("scheduler=plateau", "scheduler.mode=min")
    made("scheduler=plateau", "scheduler.mode=min", "scheduler.monitor=train/loss")


@pytest.mark.parametrize(
    ("options", "trainer", "message"),
    [
        (
            ["scheduler=cosine"],
            {"max_steps": 5},
            "since max_steps ends the training: set scheduler",
        ),
        (["scheduler=onecycle"], {"estimated_stepping_batches": math.inf}, "max_epochs is not set"),
        (["scheduler=cosine"], None, "scheduler.total=null stands for the whole training"),
        (
            ["scheduler=cosine", "scheduler.warmup=1"],
            {},
            "expected total of at least 1, 0 <= warmup",
        ),
        (["scheduler.interval=batch"], {}, "must be 'epoch' or 'step', got 'batch'"),
        (["+scheduler.T_max=3"], {}, "StepLR does not take scheduler.T_max; it takes step_size"),
        (["scheduler=none", "+scheduler.T_max=3"], {}, "names no class: choose from cosine"),
        (["~optimizer"], {}, "training needs an optimizer: choose from adam, adamw"),
        (["optimizer.lr=-1"], {}, "optimizer.lr must be at least 0, got -1"),
    ],
)
def test_wrong_values(options, trainer, message):
    given = None if trainer is None else SimpleNamespace(**{**vars(TRAINER), **trainer})
    with pytest.raises(ValueError, match=message):
        made(*options, trainer=given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            [
                "scheduler=onecycle",
                "optimizer._target_=torch.optim.Adagrad",
            ],
            "scheduler: .*momentum",
        ),
        (["scheduler=onecycle", "scheduler.pct_start=2"], "scheduler: "),
        (["scheduler=plateau", "scheduler.factor=2"], "scheduler: Factor should be < 1"),
    ],
)
def test_values_that_classes_refuse_show_before_training(options, message):
    cfg = compose(options)
    matcher = SimpleNamespace(optimizer=build_optimizer(cfg), scheduler=build_schedule(cfg))
    with pytest.raises(ValueError, match=message):
        check_optimisation(matcher, TRAINER)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["lr=1", "optimizer=sgd"],
            "lr=1 has no effect, because optimizer.lr=0.01 is set on its own",
        ),
        (
            ["lr=1", "optimizer.lr=2"],
            "because optimizer.lr=2 is set on its own: set optimizer.lr=1",
        ),
        (["max_epochs=3", "trainer.max_epochs=2"], "because trainer.max_epochs=2"),
        (["step_size=3", "scheduler=cosine"], "step_size=3 has no effect: scheduler=cosine has no"),
        (["gamma=0.3", "scheduler=none"], "gamma=0.3 has no effect: scheduler=none has no gamma"),
    ],
)
def test_a_value_without_effect_is_refused(options, message, monkeypatch):
    choice = next((o.partition("=")[2] for o in options if o.startswith("scheduler=")), "step")
    known = SimpleNamespace(runtime=SimpleNamespace(choices={"scheduler": choice}))
    monkeypatch.setattr("itm.app.optimisation.HydraConfig.get", lambda: known)
    with pytest.raises(ValueError, match=message):
        check_used(compose(options), options)
    check_used(compose(), ["seed=1", "max_epochs=3"])


def test_a_class_without_weight_decay_needs_no_option():
    optimizer, _ = made("optimizer._target_=torch.optim.Rprop")
    assert type(optimizer).__name__ == "Rprop"
    with pytest.raises(ValueError, match="Rprop does not take optimizer.weight_decay.*~optimizer"):
        made("optimizer._target_=torch.optim.Rprop", "optimizer.weight_decay=0.1")


def test_an_option_of_the_chosen_file_can_be_left_out():
    typed = ["optimizer=adam", "optimizer._target_=torch.optim.SGD", "~optimizer.betas"]
    assert rewrite_choices(typed)[-1] == "~optimizer.betas"


def test_an_improvement_is_never_a_worse_value():
    with pytest.raises(ValueError, match="mode=max waits for train/loss to rise, but less is"):
        made("scheduler=plateau", "scheduler.monitor=train/loss")
    with pytest.raises(ValueError, match="mode=max waits for val/i2t_medr to rise"):
        made("scheduler=plateau", "scheduler.monitor=val/i2t_medr")
    with pytest.raises(ValueError, match="scheduler.interval=step reads val/rsum after every step"):
        made("scheduler=plateau", "scheduler.interval=step")


def test_a_cycle_that_ends_before_the_training_is_refused():
    def check(*options, batches=4, **trainer):
        cfg = compose(options)
        matcher = SimpleNamespace(optimizer=build_optimizer(cfg), scheduler=build_schedule(cfg))
        like = SimpleNamespace(
            **{**vars(TRAINER), "max_epochs": 2, "accumulate_grad_batches": 1, **trainer}
        )
        check_optimisation(matcher, like, batches)

    cycle = ["scheduler=onecycle", "scheduler.total_steps=7"]
    with pytest.raises(ValueError, match="the cycle has 7 steps, the training 8: set scheduler"):
        check(*cycle)
    check(*cycle, batches=3)
    check(*cycle, accumulate_grad_batches=2)
    check(*cycle, max_steps=5)
    check("scheduler=onecycle", batches=10000)


@pytest.mark.parametrize(("limit", "count"), [(1.0, 10), (0.25, 2), (3, 3), (50, 10)])
def test_an_epoch_trains_on_as_many_batches_as_the_trainer_allows(limit, count):
    data = SimpleNamespace(train_sampler=lambda: PairSampler(np.arange(40), 4, seed=0))
    trainer = SimpleNamespace(limit_train_batches=limit, world_size=1)
    assert epoch_batches(trainer, data) == count
    trainer.world_size = 2  # the processes start later, and share the epoch
    assert epoch_batches(trainer, data) == {10: 5, 2: 1, 3: 3}[count]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["scheduler=step", "scheduler.step_size=0"], r"scheduler.step_size must be at least 1 \("),
        (["step_size=-2"], "scheduler.step_size must be at least 1"),
        (["gamma=-0.1"], "scheduler.gamma must be above 0, got -0.1"),
        (["gamma=inf"], "scheduler.gamma must be finite, got inf"),
        (["scheduler=onecycle", "scheduler.max_lr=0"], "scheduler.max_lr must be above 0, got 0"),
        (["scheduler=onecycle", "scheduler.max_lr=[0.1,-1]"], "scheduler.max_lr must be above 0"),
        (["scheduler=onecycle", "scheduler.total_steps=0"], "total_steps must be at least 1"),
        (["scheduler=onecycle", "scheduler.div_factor=0"], "div_factor must be above 0"),
        (["scheduler=plateau", "scheduler.patience=-1"], "patience must be at least 0, got -1"),
        (["scheduler=plateau", "scheduler.factor=-0.5"], "factor must be above 0"),
        (["scheduler=plateau", "scheduler.min_lr=-1"], "min_lr must be at least 0"),
        (["scheduler=cosine", "scheduler.total=-5"], "scheduler.total must be at least 1"),
        (["scheduler={_target_: torch.optim.lr_scheduler.CosineAnnealingLR, T_max: 0}"], "T_max"),
        (["scheduler={_target_: torch.optim.lr_scheduler.LinearLR, total_iters: 0}"], "total_it"),
        (["scheduler={_target_: torch.optim.lr_scheduler.MultiStepLR, milestones: [3, 0]}"], "mil"),
        (["scheduler={_target_: torch.optim.lr_scheduler.MultiStepLR, milestones: []}"], "hold at"),
        (["optimizer=adam", "optimizer.betas=[0.9]"], "optimizer.betas must be two numbers"),
        (["optimizer=adam", "optimizer.betas=0.9"], "optimizer.betas must be two numbers"),
        (["optimizer=adam", "optimizer.betas=[0.9,1.5]"], "optimizer.betas must be two numbers"),
        (["optimizer.lr=-1"], "optimizer.lr must be at least 0, got -1"),
        (["lr=nan"], "optimizer.lr must be finite, got nan"),
        (["optimizer.lr=-1"], "optimizer.lr must be at least 0, got -1"),
        (["optimizer=adamw", "optimizer.weight_decay=-1"], "weight_decay must be at least 0"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)  # fmt: skip
def test_numbers_that_no_training_can_use(options, said):
    with pytest.raises(ValueError, match=said):
        made(*rewrite_choices(options))


def test_wrong_step_sizes_from_python():
    for groups, step in (([{}], 0), ([{"step_size": 0}], 5), ([{"step_size": -1}], 5)):
        groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], **group} for group in groups]
        with pytest.raises(ValueError, match="scheduler.step_size must be at least 1"):
            StepLR(torch.optim.Adam(groups), step)


def test_errors_of_any_kind_become_readable():
    def scheduler(optimizer):
        return 1 / 0

    matcher = SimpleNamespace(optimizer=torch.optim.Adam, scheduler=Schedule(scheduler))
    with pytest.raises(ValueError, match="scheduler: division by zero"):
        check_optimisation(matcher, TRAINER)


def test_arguments_of_other_classes_are_left_to_them():
    class Own(torch.optim.lr_scheduler.LambdaLR):
        def __init__(self, optimizer, gamma=0.0):
            super().__init__(optimizer, lambda step: 1.0 + gamma)

    Schedule(partial(Own, gamma=-0.5))
    with pytest.raises(ValueError, match=r"scheduler\.gamma must be above 0"):
        Schedule(partial(torch.optim.lr_scheduler.ExponentialLR, gamma=-0.5))


def test_an_optimiser_that_refuses_the_gradient_ends_before_training():
    matcher = SimpleNamespace(optimizer=torch.optim.SparseAdam, scheduler=None)
    trainer = SimpleNamespace(max_epochs=1, max_steps=-1)
    with pytest.raises(ValueError, match="optimizer: SparseAdam does not support dense gradients"):
        check_optimisation(matcher, trainer)
    matcher.optimizer = torch.optim.LBFGS
    check_optimisation(matcher, trainer)
