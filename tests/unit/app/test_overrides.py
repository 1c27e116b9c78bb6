"""A wrong option ends in one line that says what was meant."""

import pytest

from itm import evaluate, explain, search, train
from itm.app import entry as cli
from itm.app.config import compose

SMALL = "data.root.images=[4,4,4]"


def line(module, *arguments, capsys, monkeypatch, cwd):
    """What a command prints when it fails, run in this process."""
    monkeypatch.chdir(cwd)
    monkeypatch.setattr("sys.argv", [module.__name__, *arguments])
    monkeypatch.delenv("ITM_TRACEBACK", raising=False)
    with pytest.raises(SystemExit):
        name = module.__name__.rpartition(".")[2]
        cli.run(name, getattr(module, "run_job", module.command))
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["model=vrsn"], "there is no model=vrsn; did you mean vsrn? choose from casc, chan, cvse"),
        (["loss=xyz"], "there is no loss=xyz; choose from infonce, logistic, multilabel"),
        (["loss.margn=0.1"], "there is no option loss.margn; did you mean loss.margin?"),
        (["batch_size=8"], "there is no option batch_size; did you mean data.batch_size?"),
        (["loss=sam", "loss.wibble=1"], "there is no option loss.wibble; loss: margin"),
        (["data.batch_size=0", SMALL], "error: data.batch_size must be at least 1, got 0\n"),
        (["loss.margin=-1", SMALL], "error: loss.margin must be at least 0, got -1\n"),
        (["loss.negatives=hard", SMALL], "error: loss.negatives must be 'hardest', 'all', 'top'"),
        (["loss=pcmepp", "loss.alpha=1"], "no option loss.alpha; did you mean loss.smoothness_alp"),
        (["optimizer._target_=torch.optim.Admaw"], "torch.optim has no Admaw; did you mean Ada"),
        (["foo"], "error: foo: write OPTION=VALUE"),
        (["loss.margin=wide", SMALL], "loss.margin=wide: expected a number, such as 0.2"),
        (["seed=abc"], "seed=abc: expected a whole number, such as 0"),
    ],
)
def test_training(arguments, said, capsys, monkeypatch, tmp_path):
    text = line(train, *arguments, capsys=capsys, monkeypatch=monkeypatch, cwd=tmp_path)
    assert said in text


OWN_LOSS = """
class Softmax:
    def __init__(self, sharpness=20.0):
        self.sharpness = sharpness
"""


def test_options_of_a_class_whose_file_lists_none(capsys, monkeypatch, tmp_path):
    (tmp_path / "ownlosses.py").write_text(OWN_LOSS)
    (tmp_path / "conf" / "loss").mkdir(parents=True)
    (tmp_path / "conf" / "loss" / "softmax.yaml").write_text("_target_: ownlosses.Softmax\n")
    monkeypatch.syspath_prepend(tmp_path)
    given = {"capsys": capsys, "monkeypatch": monkeypatch, "cwd": tmp_path}
    own = ["--config-dir", str(tmp_path / "conf"), "loss=softmax", SMALL]
    text = line(train, *own, "loss.sharpnes=3", **given)
    assert "no option loss.sharpnes; did you mean +loss.sharpness=..., which ownlosses.Soft" in text
    text = line(train, *own, "loss.wibble=3", **given)
    assert "there is no option loss.wibble; loss: +sharpness" in text


def test_search(capsys, monkeypatch, tmp_path):
    given = {"capsys": capsys, "monkeypatch": monkeypatch, "cwd": tmp_path}
    assert "there is no option qery; did you mean query?" in line(search, "qery=dog", **given)
    assert "top=ten: expected a whole number, such as 10" in line(search, "top=ten", **given)
    assert "top=0: expected at least 1" in line(
        search, "checkpoint=nowhere", "query=dog", "top=0", **given
    )
    assert "give checkpoint=RUN" in line(search, "query='a dog'", **given)


def test_a_file_that_is_no_checkpoint_and_an_empty_caption(capsys, monkeypatch, tmp_path):
    given = {"capsys": capsys, "monkeypatch": monkeypatch, "cwd": tmp_path}
    (tmp_path / "weights.pkl").write_bytes(b"")
    text = line(evaluate, "checkpoint=weights.pkl", SMALL, **given)
    assert "weights.pkl must be a run folder, a saved folder or a .ckpt file" in text
    text = line(explain, "checkpoint=nowhere", SMALL, "caption=''", "out=a.png", **given)
    assert "caption= is empty; give a sentence" in text


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("protocol=coco_5k", "5000 images and 25000 captions, but the split has 4 and 20"),
        (
            "protocol=coco5k",
            "protocol must be 'full', 'f30k_1k', 'coco_1k' or 'coco_5k', got",
        ),
        ("relevance=cidr", "unknown relevance 'cidr': choose cider"),
        ("batch_size=0", "batch_size=0: expected at least 1"),
        ("eccv=true", "5000 images and 25000 captions; split test of"),
        ("relevance=missing.npy", "relevance file missing.npy does not exist"),
    ],
)
def test_an_evaluation_finds_mistakes_before_it_scores(option, said, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("ITM_CACHE", str(tmp_path))
    given = {"capsys": capsys, "monkeypatch": monkeypatch, "cwd": tmp_path}
    assert said in line(evaluate, "checkpoint=nowhere", SMALL, option, **given)


def test_a_memory_budget_is_in_bytes(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("ITM_CACHE", str(tmp_path))
    given = {"capsys": capsys, "monkeypatch": monkeypatch, "cwd": tmp_path}
    text = line(evaluate, "checkpoint=nowhere", SMALL, "memory_budget=4", **given)
    assert "memory_budget=4 is too small: it is a number of bytes" in text


def test_the_fast_trainer_takes_epochs():
    assert compose(["trainer=fast"]).trainer.max_epochs == 1
    assert compose(["trainer=fast", "max_epochs=3"]).trainer.max_epochs == 3
