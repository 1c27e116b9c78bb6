"""Rows of a report: what is one setting, what is known of all its runs, and what may choose."""

import pytest
from made_runs import made_run

from itm.runs.groups import averaged, group_seeds
from itm.runs.page_tables import best_of, difference_table, result_table
from itm.runs.report import results
from itm.runs.report_files import format_results, results_data


def rows_of(table):
    return [line[2:-2].split(" | ") for line in table.splitlines()[2:] if line.startswith("| ")]


@pytest.mark.parametrize(
    ("key", "values", "rows"),
    [
        ("trainer.limit_train_batches", (1, 1.0), 2),
        ("trainer.limit_val_batches", (1, 1.0), 2),
        ("trainer.val_check_interval", (1, 1.0), 2),
        ("trainer.overfit_batches", (1, 1.0), 2),
        ("trainer.limit_train_batches", (1, 1), 1),
        ("optimizer.lr", (1, 1.0), 1),
        ("loss.alone", (True, 1), 2),
        ("loss.margin", ("0.1", 0.1), 2),
    ],
)
def test_one_batch_is_not_all_of_them(key, values, rows):
    runs = [made_run(f"r/{i}", i, **{key: value}) for i, value in enumerate(values)]
    groups = group_seeds(runs)
    assert len(groups) == rows and len(best_of(groups, [key])) == rows
    table = rows_of(result_table(groups, [key]))
    assert len({row[0] for row in table}) == len(table) == rows


def test_classes_of_one_name_are_told_apart():
    kinds = ["itm.losses.Triplet", "mine.Triplet", "itm.losses.SAM"]
    runs = [made_run(f"r/{i}", **{"loss._target_": kind}) for i, kind in enumerate(kinds)]
    groups = group_seeds(runs)
    assert {*groups} == {"loss=itm.losses.Triplet", "loss=mine.Triplet", "loss=SAM"}
    assert {*best_of(groups, ["loss._target_"])} == {*groups}
    cells = {row[0] for row in rows_of(result_table(groups, ["loss._target_"]))}
    assert cells == {"SAM", "itm.losses.Triplet", "mine.Triplet"}


def test_means_over_some_runs_say_over_how_many():
    """(390 + 410 + 400) / 3 = 400; NCS is known for one seed, and validation for two."""
    rsums, validations = (390.0, 410.0, 400.0), (100.0, 104.0, None)
    runs = [
        made_run(f"r/{i}", i, rsum, val, {"i2t_ncs_10": 40.0} if i == 0 else None)
        for i, (rsum, val) in enumerate(zip(rsums, validations, strict=True))
    ]
    groups = group_seeds(runs)
    (row,) = rows_of(result_table(groups, metrics=["i2t_ncs_10"]))
    assert row[-3:] == ["40.0 (1 of 3)", "102.0 ± 2.8 (2 of 3)", "400.0 ± 10.0"]
    (row,) = results(groups, "test", 100).rows
    assert row[2:4] == ["400.0 ± 10.0", "102.0 ± 2.8 (2 of 3)"] and row[-1] == "40.0 (1 of 3)"
    (data,) = results_data({"test": groups})
    assert data["test"]["i2t_ncs_10"] == {"mean": 40.0, "known": 1}
    assert data["test"]["rsum"] == {"mean": 400.0, "deviation": 10.0}
    assert "40.0 (1 of 3)" in format_results({"test": groups}, "csv")
    del runs[2].metrics["i2t_r5"]
    (row,) = rows_of(result_table(group_seeds(runs)))
    assert row[-4].endswith("(2 of 3)") and "of 3" not in row[-3]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([1.0, 3.0], "2.0 ± 1.4"),
        ([1.0, None, 3.0], "2.0 ± 1.4 (2 of 3)"),
        ([None, 3.0], "3.0 (1 of 2)"),
        ([None, None], ""),
    ],
)
def test_numbers_that_are_not_known_are_counted(values, text):
    assert averaged(values) == text


def test_an_interval_needs_the_ranks_of_every_run():
    runs = [made_run(f"r/{i}", i) for i in range(3)]
    (row,) = results(group_seeds(runs), "test", 100).rows
    assert " to " in row[4]
    runs[2] = made_run("r/2", 2, ranks=None)
    (row,) = results(group_seeds(runs), "test", 100).rows
    assert row[4] == ""


def test_a_validation_of_a_part_neither_sorts_nor_chooses():
    margins = {0.1: (500.0, ("val",)), 0.2: (100.0, ()), 0.3: (90.0, ())}
    runs = [
        made_run(f"r/{i}", 0, 300, validation, partial=part, **{"loss.margin": margin})
        for i, (margin, (validation, part)) in enumerate(margins.items())
    ]
    groups = group_seeds(runs)
    assert [*groups] == ["loss.margin=0.2", "loss.margin=0.3", "loss.margin=0.1"]
    (chosen,) = best_of(groups, ["model"]).values()
    assert chosen[0].settings["loss.margin"] == 0.2
    assert rows_of(result_table(groups, ["loss.margin"]))[0][-2:] == ["500.0 (part)", "300.0"]
    best = {row[0] for row in rows_of(difference_table(groups, samples=50))}
    assert best == {"loss.margin=0.2 (1)"}
    latex = format_results({"test": groups}, "latex")
    assert r"\textbf{100.0}" in latex and r"\textbf{500.0" not in latex


@pytest.mark.parametrize("more", [{"validation": None}, {"partial": ("val",)}])
def test_the_test_never_chooses(more):
    runs = [made_run(f"r/{i}", 0, 300 + i, **{"loss.margin": i, **more}) for i in range(2)]
    groups = group_seeds(runs)
    with pytest.raises(ValueError, match=r"by=model: nothing chooses .*loss.margin=1 and loss.mar"):
        best_of(groups, ["model"])
    with pytest.raises(ValueError, match="none of them can be called the best"):
        difference_table(groups, samples=50)
    assert len(best_of(groups, ["model", "loss.margin"])) == 2  # nothing to choose
    known = group_seeds([*runs, made_run("r/2", 0, 10, 50.0, **{"loss.margin": 2})])
    (chosen,) = best_of(known, ["model"]).values()
    assert chosen[0].rsum == 10


def test_the_best_setting_is_compared_or_nothing_is():
    runs = [
        made_run(f"r/{i}", 0, 300, 100 + i, ranks=None, **{"loss.margin": i}) if i == 2
        else made_run(f"r/{i}", 0, 300, 100 + i, **{"loss.margin": i})
        for i in range(3)
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"loss.margin=2 is the best .*no ranks\.npz"):
        difference_table(group_seeds(runs), samples=50)


def test_a_candidate_of_one_seed_is_compared_on_this_seed():
    """In both tables: its plain mean is the best, but with this seed the other one is better."""
    values = {0.1: {0: 120.0, 1: 100.0, 2: 100.0}, 0.2: {0: 115.0}}
    runs = [
        made_run(f"r/{margin}/{seed}", seed, 300, value, **{"loss.margin": margin})
        for margin, seeds in values.items()
        for seed, value in seeds.items()
    ]
    groups = group_seeds(runs)
    (chosen,) = best_of(groups, ["model"]).values()
    assert chosen[0].settings["loss.margin"] == 0.1
    assert {row[0] for row in rows_of(difference_table(groups, samples=50))} == {
        "loss.margin=0.1 (3)"
    }


def test_runs_of_other_queries_are_not_compared_and_the_others_are():
    runs = [
        made_run(f"r/{margin}/{seed}", seed, 300, 100 + margin, **{"loss.margin": margin})
        for margin in (1, 2, 3)
        for seed in (0, 1)
    ]
    odd = runs[3].ranks
    odd["image"] = odd["image"][::-1]
    groups = group_seeds(runs)
    rows = rows_of(difference_table(groups, samples=50))
    assert [row[:2] for row in rows] == [["loss.margin=3 (2)", "loss.margin=1 (2)"]]


def test_a_repetition_adds_what_it_knows():
    """The copy of a run was evaluated with a relevance, the run was not."""
    runs = [made_run("a/0"), made_run("b/0", metrics={"i2t_ncs_10": 40.0}), made_run("a/1", 1)]
    ((_, group),) = group_seeds(runs).items()
    assert [run.metrics.get("i2t_ncs_10") for run in group] == [40.0, None]
    assert [str(run.folder) for run in group] == ["a/0", "a/1"]


def test_rows_are_sorted_whatever_kind_their_values_have():
    values = [(1, 2), 0.5, None, "all", ([1], 2), True]
    runs = [
        made_run(f"r/{i}", **({} if value is None else {"model.layers": value}))
        for i, value in enumerate(values)
    ]
    cells = [row[0] for row in rows_of(result_table(group_seeds(runs), ["model.layers"]))]
    assert len(cells) == len(values) and cells[:4] == ["", "0.5", "True", "all"]


def test_a_table_says_what_the_validation_chose():
    runs = [
        made_run(f"r/{i}", validation=100.0 + i, **{"model": model, "optimizer.lr": rate})
        for i, (model, rate) in enumerate([("scan", 0.1), ("scan", 0.2), ("vsrn", 0.1)])
    ]
    table = result_table(group_seeds(runs), ["model"])
    assert table.startswith("| `model` | `optimizer.lr` | runs |")
    assert [row[:2] for row in rows_of(table)] == [["scan", "0.2"], ["vsrn", "0.1"]]


def test_a_row_shows_what_changed_on_the_way():
    record = {"command": "python -m itm.train model=scan seed=0"}
    changes = {"changes": "lr 0.1 -> 0.2 at step 4"}
    groups = group_seeds([made_run("r/0", record=record, **changes)])
    (row,) = rows_of(result_table(groups))
    assert row[0] == r"`itm.train model=scan seed=0` (lr 0.1 -\> 0.2 at step 4)"
    assert rows_of(result_table(groups, ["model"]))[0][:2] == ["scan", r"lr 0.1 -\> 0.2 at step 4"]


def test_equal_labels_of_different_rows_are_numbered():
    """Choices are named without their group: "bert" may be the text encoder or the data."""
    runs = [made_run("r/0", text="bert"), made_run("r/1", data="bert")]
    runs[0].settings["data"] = runs[1].settings["text"] = None
    rows = best_of(group_seeds(runs), ["text", "data"])
    assert [*rows] == ["bert", "bert #2"] and len({group[0].folder for group in rows.values()}) == 2
