"""Small records read like the runs they were made from, and pages are filled from them."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from itm.app.config import compose
from itm.metrics.retrieval import evaluate_queries
from itm.metrics.significance import compare
from itm.report import command
from itm.runs.groups import group_seeds, spread
from itm.runs.history import find_runs
from itm.runs.kept import can_keep, keep_record, plan_records, record_name, shown_path
from itm.runs.pages import drawings, fill
from itm.runs.record import write_ranks
from itm.utils.errors import TakenError
from itm.visual.report_page import write_page

IMAGE = np.repeat(np.arange(40), 5)
FACTS = {"split": "test", "root": "/home/me/flickr8k", "protocol": "full", "images": 40}


def make_run(folder, seed, quality=1.0, model="scan", validation=100.0, **settings):
    """What itm.train leaves behind, without training."""
    scores = np.random.default_rng(seed).normal(size=(40, 200))
    scores[IMAGE, np.arange(200)] += quality
    metrics, (i2t, t2i) = evaluate_queries(scores, IMAGE)
    typed = f"python -m itm.train model={model} data.root=/home/me/flickr8k seed={seed}"
    record = {"command": typed, "started": f"2026-01-01T00:0{seed}:00+00:00", **FACTS}
    costs = {"parameters_m": 1.2, "epochs": 3, "seconds": 60.0 + seed, "val/rsum": validation}
    (folder / ".hydra").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({**record, "overrides": typed.split()[3:]}))
    test = {f"test/{name}": value for name, value in metrics.items()}
    (folder / "results.json").write_text(json.dumps({**test, **costs, **record}))
    write_ranks(folder / "ranks.npz", i2t, t2i, IMAGE)
    values = {
        "seed": seed, "margin": 0.2, "loss.margin": "${margin}", "data.seed": "${seed}",
        "data.root": "/home/me/flickr8k", "data.val": "dev", "loss.weight": 1e-5, **settings,
    }  # fmt: skip
    config = OmegaConf.create()
    for key, value in values.items():
        OmegaConf.update(config, key, value)
    OmegaConf.save(config, folder / ".hydra" / "config.yaml")
    choices = {"model": model, "loss": "triplet", "data": "flickr8k"}
    runtime = {"hydra": {"runtime": {"choices": choices}}}
    OmegaConf.save(OmegaConf.create(runtime), folder / ".hydra" / "hydra.yaml")
    return metrics


def keep_all(runs, folder):
    found, _ = find_runs([runs])
    for run in found:
        if can_keep(run):
            keep_record(run, folder / record_name(run))
    return find_runs([folder])[0]


def test_a_record_reads_like_the_run(tmp_path):
    make_run(tmp_path / "runs" / "a", 0)
    (run,), _ = find_runs([tmp_path / "runs"])
    (kept,) = keep_all(tmp_path / "runs", tmp_path / "kept")
    files = {path.name for path in (tmp_path / "kept" / "a").iterdir()}
    assert files == {"results.json", "settings.yaml", "ranks.npz"}
    assert kept.metrics == run.metrics and kept.costs == run.costs
    assert kept.validation == run.validation and kept.seed == 0
    assert kept.settings == {**run.settings, "data.root": "flickr8k"}
    assert kept.settings["loss.margin"] == 0.2 and kept.settings["loss.weight"] == 1e-5
    assert all(np.array_equal(kept.ranks[name], run.ranks[name]) for name in run.ranks)
    small, large = (tmp_path / x / "a" / "ranks.npz" for x in ("kept", "runs"))
    assert small.stat().st_size < large.stat().st_size
    every = "".join(path.read_text() for path in small.parent.glob("[rs]e*"))
    assert "/home" not in every and "data.root=DIR" in every
    assert keep_all(tmp_path / "kept", tmp_path / "again")[0].metrics == run.metrics


def test_a_folder_of_configurations_is_not_kept(tmp_path):
    make_run(tmp_path / "runs" / "a", 0)
    own = "/home/me/My Drive/secret project/conf"
    for name in ("run.json", "results.json"):
        path = tmp_path / "runs/a" / name
        record = json.loads(path.read_text())
        record["command"] = shlex.join([*record["command"].split(), f"--config-dir={own}"])
        added = {"config_dir": own} if name == "run.json" else {}
        path.write_text(json.dumps({**record, **added}))
    (kept,) = keep_all(tmp_path / "runs", tmp_path / "kept")
    assert shlex.split(kept.record["command"])[-1] == "--config-dir=DIR"
    every = "".join(path.read_text() for path in (tmp_path / "kept/a").glob("[rs]e*"))
    assert not any(part in every for part in ("home", "Drive", "secret", 'conf"'))


def test_a_run_without_a_test_is_kept_as_it_is(tmp_path):
    make_run(tmp_path / "runs" / "a", 0)
    file = tmp_path / "runs" / "a" / "results.json"
    record = json.loads(file.read_text()).items()
    file.write_text(json.dumps({k: v for k, v in record if not k.startswith("test/")}))
    (kept,) = keep_all(tmp_path / "runs", tmp_path / "kept")
    assert kept.rsum == kept.validation == 100.0
    text = (tmp_path / "kept" / "a" / "results.json").read_text()
    assert "val/rsum" in text and "test/rsum" not in text


def test_a_record_keeps_what_changed_on_the_way_and_which_part_was_scored(tmp_path):
    make_run(tmp_path / "runs" / "a", 0, tracking="file:/home/me/runs")
    changes = ["lr 0.1 -> 0.01 at step 4", "data.vocab /home/me/a.json -> /home/me/b.json"]
    facts = {"changes": changes, "partial": ["val"]}
    for name in ("run.json", "results.json"):
        path = tmp_path / "runs/a" / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))
    for _ in range(2):  # as a run, and as a record
        (kept,) = keep_all(tmp_path / "runs", tmp_path / "kept")
        shown = "lr 0.1 -> 0.01 at step 4; data.vocab DIR/a.json -> DIR/b.json"
        assert kept.settings["changes"] == shown and kept.choice is None and kept.validation == 100
        every = "".join(path.read_text() for path in (tmp_path / "kept/a").glob("[rs]e*"))
        assert "/home" not in every


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("python -m itm.train 'data.root=/home/jo/my data' lr=1 init=/home/jo/a.ckpt",
         "python -m itm.train 'data.root=DIR' lr=1 init=DIR/a.ckpt"),
        ("data.vocab='/home/jo/my vocab.json'", "data.vocab='DIR/my vocab.json'"),
        (shlex.join(["data.root='/home/jo/my data'", "lr=1"]),
         shlex.join(["data.root='DIR'", "lr=1"])),
        ("logger.mlflow.tracking_uri=file:/home/jo/ml", "logger.mlflow.tracking_uri=file:DIR"),
        ("'--config-dir=/home/jo/my work/conf' lr=1", "'--config-dir=DIR' lr=1"),
        ("uri=http://host:80/x lr=1", "uri=http://host:80/x lr=1"),
        ("'checkpoint=[/home/a,/home/b]'", "'checkpoint=[DIR,DIR]'"),
        ("'a=b' c=/home/jo/d 'e=f'", "'a=b' c=DIR 'e=f'"),
    ],
)  # fmt: skip
def test_folders_of_the_machine_are_not_shown(text, shown):
    assert shown_path(text) == shown


def test_metrics_are_added_to_a_record_and_another_run_is_refused(tmp_path):
    metrics = make_run(tmp_path / "runs" / "a", 0)
    keep_all(tmp_path / "runs", tmp_path / "kept")
    report = {**FACTS, "checkpoints": [str(tmp_path / "runs" / "a")]}
    (tmp_path / "runs" / "evaluation").mkdir()
    rows = {"a": {**metrics, "i2t_ncs_10": 50.0}}
    file = tmp_path / "runs" / "evaluation" / "report.json"
    file.write_text(json.dumps({**report, "results": rows}))
    (kept,) = keep_all(tmp_path / "runs", tmp_path / "kept")
    assert kept.metrics["i2t_ncs_10"] == 50.0
    file.unlink()
    (kept,) = keep_all(tmp_path / "runs", tmp_path / "kept")
    assert kept.metrics["i2t_ncs_10"] == 50.0
    make_run(tmp_path / "other" / "a", 1)
    with pytest.raises(ValueError, match="record of another run .*give another keep="):
        keep_all(tmp_path / "other", tmp_path / "kept")


def test_records_of_two_sweeps_stay_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i, folder in enumerate(("a/m", "a/n", "b/m")):
        for seed in (0, 1):
            make_run(Path(folder) / str(seed), 2 * i + seed)
    runs, _ = find_runs(["a/m", "a/n"])
    places = plan_records(runs, Path("kept"))
    assert [path.as_posix() for path in places] == ["kept/m/0", "kept/m/1", "kept/n/0", "kept/n/1"]
    runs, _ = find_runs(["a/m", "b/m"])
    places = plan_records(runs, Path("kept"))
    assert {path.as_posix() for path in places} >= {"kept/a/m/0", "kept/b/m/1"}
    command(compose(["runs=[a/m,b/m]", "keep=kept", "out=page", "samples=20"], "report"))
    assert len(list(Path("kept").rglob("results.json"))) == 4
    assert len(find_runs(["kept"])[0]) == 4


def test_nothing_is_written_if_a_record_or_a_page_is_wrong(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(Path("a/0"), 0)
    make_run(Path("b/0"), 1)
    make_run(Path("b/1"), 2)
    Path("wrong.md").write_text("<!-- table: rows b/* -->\n<!-- /table -->\n")
    given = ["samples=20", "out=page"]
    command(compose(["runs=a", "keep=kept", "samples=20", "out=first"], "report"))
    for options, error in (
        (["runs=b", "keep=kept"], "record of another run"),
        (["runs=b", "pages=nopage.md"], "pages=nopage.md: no such file"),
        (["runs=b", "pages=[wrong.md,wrong.md]"], "pages=wrong.md: table: rows"),
    ):
        with pytest.raises((ValueError, OSError), match=error):
            command(compose([*given, *options], "report"))
        assert not Path("page").exists()
        assert [path.as_posix() for path in Path("kept").glob("*")] == ["kept/0"]


@pytest.mark.parametrize("size, text", [(12.34, "12.3 M"), (0.05, "50 K"), (0.0004, "0.4 K")])
def test_small_matchers_have_a_size_too(size, text, tmp_path):
    make_run(tmp_path / "runs" / "a", 0)
    runs, _ = find_runs([tmp_path / "runs"])
    page = "<!-- table: runs runs/* -->\n<!-- /table -->\n"
    assert f" {text} " in fill(page, [replace(runs[0], costs={"parameters_m": size})])


def test_ensembles_are_grouped_over_seeds_with_their_validation(tmp_path):
    runs = tmp_path / "runs"
    for seed in (0, 1):
        pair = [str(runs / f"{model}_{seed}") for model in ("sgr", "saf")]
        metrics = [make_run(Path(path), seed, model=Path(path).name[:3]) for path in pair]
        for split, rsum in (("test", 310.0 + seed), ("dev", 300.0 + seed)):
            rows = dict(zip([*pair, "ensemble of 2"], [*metrics, {"rsum": rsum}], strict=True))
            facts = {**FACTS, "split": split, "checkpoints": pair, "results": rows}
            (runs / f"{split}_{seed}").mkdir()
            (runs / f"{split}_{seed}" / "report.json").write_text(json.dumps(facts))
    kept = keep_all(runs, tmp_path / "kept")
    groups = group_seeds([run for run in kept if run.test.startswith("test")])
    name = "sgr + saf"
    assert len(groups[name]) == 2 and len(groups) == 3
    assert spread([run.rsum for run in groups[name]]) == "310.5 ± 0.7"
    assert spread([run.validation for run in groups[name]]) == "300.5 ± 0.7"
    assert {run.folder.name for run in groups[name]} == {"sgr_0+saf_0", "sgr_1+saf_1"}
    assert {run.costs["parameters_m"] for run in groups[name]} == {2.4}


@pytest.mark.parametrize(
    ("members", "name"),
    [
        (
            [("sgr", {"text": "bert", "scheduler": "cosine"}), ("saf", {"scheduler": "step"})],
            "sgr bert scheduler=cosine + saf scheduler=step",
        ),
        ([("sgr", {"text": "bert"}), ("sgr", {})], "sgr bert + sgr"),
    ],
)
def test_members_that_differ_in_several_choices_are_named_one_by_one(tmp_path, members, name):
    runs = tmp_path / "runs"
    pair = [str(runs / str(number)) for number in range(2)]
    for path, (model, options) in zip(pair, members, strict=True):
        make_run(Path(path), 0, model=model, **options)
    results = {**{path: {"rsum": 1.0} for path in pair}, "ensemble of 2": {"rsum": 2.0}}
    facts = {**FACTS, "split": "test", "checkpoints": pair, "results": results}
    (runs / "pair").mkdir()
    (runs / "pair" / "report.json").write_text(json.dumps(facts))
    found = [run.settings for run in find_runs([runs])[0] if "ensemble" in run.settings]
    assert [x["model"] for x in found] == [name]
    assert "text" not in found[0]


def make_sweep(folder):
    """Two candidates for one loss, and another loss; the validation prefers weight 2."""
    for seed in (0, 1):
        make_run(folder / f"a_{seed}", seed, 1.0, validation=90.0, **{"loss.alone": False})
        weights = {"loss.alone": True, "loss.weight": 2.0}
        make_run(folder / f"b_{seed}", seed, 3.0, validation=120.0, **weights)
    make_run(folder / "c_0", 0, 2.0, validation=115.0, **{"loss.alone": True, "loss.weight": 1.0})


def test_tables_of_a_page_are_made_from_the_runs(tmp_path):
    make_sweep(tmp_path / "runs")
    runs, _ = find_runs([tmp_path / "runs"])
    page = "\n".join(
        f"<!-- table: {mark} -->\nold\n<!-- /table -->\n"
        for mark in (
            "runs runs/a_*",
            "runs by=loss.alone metrics=rsum runs/*",
            "differences within=model runs/*",
            "runs nothing/*",
            "other-mark",
        )  # fmt: skip
    )
    filled = fill(page, runs, samples=200)
    assert fill(filled, runs, samples=200) == filled and filled.count("old") == 1
    plain, chosen, differences, none, _ = filled.split("<!-- /table -->\n\n")
    rsums = [run.rsum for run in runs if run.folder.name.startswith("a_")]
    typed = "`itm.train -m model=scan data.root=DIR seed=0,1`"
    assert f"| {typed} | 2 | 1.2 M | 3 | 60 |" in plain and f"| {spread(rsums)} |" in plain
    rows = [line for line in chosen.splitlines() if line.startswith("| ")][2:]
    assert [row.split(" | ")[:2] for row in rows] == [["| False", "1e-05"], ["| True", "2.0"]]
    by_name = {run.folder.name: run.ranks for run in runs}
    a, b = ([by_name[f"{x}_{seed}"] for seed in (0, 1)] for x in "ab")
    assert f"| {compare(b, a, 200).value:+.1f} |" in differences
    assert differences.count("\n| ") == 2 + 2 and "No runs yet." in none  # head, two others


def test_a_figure_of_one_value_says_so(tmp_path):
    make_sweep(tmp_path / "runs")
    runs, _ = find_runs([tmp_path / "runs"])
    page = "<!-- figure: max_epochs out=x.png runs/* -->\n<!-- /figure -->\n"
    assert "Fewer than two values of max_epochs have runs." in fill(page, runs)
    assert "No runs yet." in fill(page.replace("runs/*", "nothing/*"), runs)


def test_rows_name_what_differs(tmp_path):
    for model, rsum in (("scan", 3.0), ("vsrn", 2.0), ("cvse", 1.0)):
        options = {"model": model, "scheduler": "cosine" if model == "cvse" else "step"}
        make_run(tmp_path / "runs" / model, 0, rsum, **options)
    runs, _ = find_runs([tmp_path / "runs"])
    for run in runs:
        scheduler = " scheduler=cosine" if run.settings["model"] == "cvse" else ""
        run.record["command"] = f"python -m itm.train model={run.settings['model']}{scheduler} lr=1"
    page = "".join(
        f"<!-- table: {x} runs/* -->\n<!-- /table -->\n" for x in ("runs", "differences")
    )
    filled = fill(page, runs, samples=50)
    assert "`itm.train model=cvse scheduler=cosine seed=0`" in filled
    assert filled.count("lr=1") == 1 and "Every `itm.train` also has `lr=1`.\n" in filled
    assert "| scan (1) | cvse scheduler=cosine (1) |" in filled and "scheduler=step" not in filled


def test_a_figure_is_drawn_again_when_its_numbers_change(tmp_path):
    for margin in (0.1, 0.2):
        for seed in (0, 1):
            make_run(tmp_path / f"runs/m{margin}_{seed}", seed, 10 * margin, margin=margin)
    runs, _ = find_runs([tmp_path / "runs"])
    page = tmp_path / "page.md"
    mark = "<!-- figure: loss.margin out=margins.png metrics=rsum runs/* -->\n<!-- /figure -->\n"
    page.write_text(mark)
    (drawing,) = drawings(mark, runs)
    assert {g[0].settings["loss.margin"] for g in drawing.groups.values()} == {0.1, 0.2}
    write_page(page, runs, 100)
    text, picture = page.read_text(), tmp_path / "margins.png"
    assert "![rsum over loss.margin](margins.png)" in text and drawing.digest in text
    before = picture.stat().st_mtime_ns
    write_page(page, runs, 100)
    assert page.read_text() == text and picture.stat().st_mtime_ns == before
    write_page(page, runs[:3], 100)
    assert page.read_text() != text and picture.stat().st_mtime_ns != before


def test_unknown_marks_and_mixed_splits_are_refused(tmp_path):
    make_run(tmp_path / "a", 0)
    runs, _ = find_runs([tmp_path])
    for mark, match in (("best a", "'runs' or 'differences'"), ("runs bi=a a", "bi= in a mark")):
        with pytest.raises(ValueError, match=match):
            fill(f"<!-- table: {mark} -->\n<!-- /table -->", runs)
    with pytest.raises(ValueError, match="needs its"):
        fill("<!-- table: runs a -->\n<!-- table: runs b -->\n<!-- /table -->", runs)
    with pytest.raises(ValueError, match="give the file to draw"):
        fill("<!-- figure: loss.margin a -->\n<!-- /figure -->", runs)


def test_the_command_keeps_records_and_fills_pages(tmp_path):
    make_run(tmp_path / "runs" / "a", 0)
    page = tmp_path / "page.md"
    page.write_text("# Page\n<!-- table: runs kept/a -->\n<!-- /table -->\n")
    options = [f"keep={tmp_path / 'kept'}", "samples=100"]
    command(compose([f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'one'}", *options], "report"))
    options = [f"pages={page}", "samples=100"]
    command(compose([f"runs={tmp_path / 'kept'}", f"out={tmp_path / 'two'}", *options], "report"))
    assert "`itm.train model=scan data.root=DIR seed=0`" in page.read_text()


@pytest.mark.parametrize("name", ["settings.yaml", "ranks.npz"])
def test_files_of_others_in_the_place_of_a_record_stay(name, tmp_path):
    make_run(tmp_path / "runs" / "a", 0)
    (tmp_path / "kept/a").mkdir(parents=True)
    (tmp_path / "kept/a" / name).write_text("mine")
    with pytest.raises(TakenError, match=f"holds {name}, which this command did not write"):
        keep_all(tmp_path / "runs", tmp_path / "kept")
    assert [p.read_text() for p in (tmp_path / "kept/a").iterdir()] == ["mine"]


def test_damage_of_a_record_s_settings_is_noticed(tmp_path):
    make_run(tmp_path / "runs" / "a", 0)
    keep_all(tmp_path / "runs", tmp_path / "kept")
    path = tmp_path / "kept/a/settings.yaml"
    path.write_text(path.read_text().replace("0.2", "0.3"))
    with pytest.raises(FileNotFoundError, match="settings.yaml is damaged"):
        find_runs([tmp_path / "kept"])


def test_ensembles_whose_members_have_other_settings_are_no_seeds_of_each_other(tmp_path):
    runs = tmp_path / "runs"
    for seed, margins in enumerate([(0.1, 0.2), (0.3, 0.5)]):
        pair = [str(runs / f"{seed}_{margin}") for margin in margins]
        for path, margin in zip(pair, margins, strict=True):
            make_run(Path(path), seed, **{"loss.margin": margin})
        results = {**{path: {"rsum": 1.0} for path in pair}, "ensemble of 2": {"rsum": 2.0}}
        facts = {**FACTS, "split": "test", "checkpoints": pair, "results": results}
        (runs / f"pair_{seed}").mkdir()
        (runs / f"pair_{seed}" / "report.json").write_text(json.dumps(facts))
    found = [run for run in find_runs([runs])[0] if "ensemble" in run.settings]
    assert [run.settings["loss.margin"] for run in found] == ["0.1 + 0.2", "0.3 + 0.5"]
    assert [len(group) for group in group_seeds(found).values()] == [1, 1]


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("runs by=modle", "modle in a mark is not a setting .*did you mean model"),
        ("differences within=modle", "modle in a mark is not a setting"),
        ("runs metrics=rsun", "rsun in a mark is not a metric .*did you mean rsum"),
        ("runs by=seed", "seed in a mark: runs that differ only in it are averaged"),
    ],
)
def test_settings_and_metrics_of_a_mark_exist(mark, message, tmp_path):
    make_sweep(tmp_path / "runs")
    runs, _ = find_runs([tmp_path / "runs"])
    with pytest.raises(ValueError, match=message):
        fill(f"<!-- table: {mark} runs/* -->\n<!-- /table -->\n", runs)
