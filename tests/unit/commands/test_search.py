import json
import re

import numpy as np
import pytest
import torch
from browser import dom
from cli import run

import itm
from itm.app.config import compose
from itm.matcher.saved import save
from itm.search import command

EVIL = "<script>document.title='owned'</script>"
QUERY = 'it\'s a "red" ball, [two] = 3 #dogs \\ ${x & <b>é</b>'


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder whose ids and captions are hostile, and a matcher for it."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    np.save(root / "test_ims.npy", rng.normal(size=(6, 3, 8)).astype(np.float32))
    captions = [f"a {x} dog {EVIL} [/bold] number {x}" for x in range(12)]
    (root / "test_caps.txt").write_text("\n".join(captions) + "\n")
    ids = [f"{EVIL}{i}" for i in range(3)] + ["../../secret", "000123", "1e5"]
    (root / "test_ids.txt").write_text("\n".join(ids) + "\n")
    torch.manual_seed(0)
    from itm.models import SCAN
    from itm.text.vocabulary import Vocabulary

    vocab = Vocabulary.build(captions, 1)
    matcher = SCAN(len(vocab), img_dim=8, word_dim=4, embed_dim=8).eval()
    matcher.vocab = vocab
    save(matcher, root / "matcher")
    return root, matcher, captions, ids


def configure(root, *overrides):
    return compose(
        [f"checkpoint={root}/matcher", "data=flickr8k", f"data.root={root}", *overrides], "search"
    )


def test_the_json_holds_what_full_scoring_says(data, tmp_path):
    root, matcher, captions, ids = data
    scores = matcher.score(np.load(root / "test_ims.npy"), [*captions, "a dog"])
    cfg = configure(root, "query=a dog", "image='1e5'", "top=4", f"out={tmp_path}/a/b.json")
    command(cfg)
    one, two = json.loads((tmp_path / "a/b.json").read_text())["results"]
    order = np.argsort(-scores[:, 12])[:4]
    assert [x["item"] for x in one["images"]] == [ids[i] for i in order]
    np.testing.assert_allclose([x["score"] for x in one["images"]], scores[order, 12], atol=1e-6)
    order = np.argsort(-scores[5, :12])[:4]
    assert (one["query"], two["image"]) == ("a dog", "1e5")
    assert [x["item"] for x in two["captions"]] == [captions[i] for i in order]
    assert [x["own"] for x in two["captions"]] == [i in (10, 11) for i in order]


def test_hostile_ids_captions_and_queries_are_text(data, tmp_path, capsys):
    root, _, captions, ids = data
    lines = tmp_path / "queries.txt"
    lines.write_text(f"{EVIL}\n{captions[0]}\n\x1b[31mred [bold]\n")
    out = tmp_path / "page.html"
    command(configure(root, f"queries={lines}", "image=1", f"out={out}", "top=6"))
    printed = capsys.readouterr().out
    assert (
        "\x1b" not in printed
        and "[/bold]" in printed
        and "\N{REPLACEMENT CHARACTER}[31mred [bold]" in printed
    )
    page = out.read_text()
    assert "<script" not in page and "&lt;script&gt;" in page
    assert 'class="good"' in page  # the image whose caption was asked for
    shown = dom(out, tmp_path / "profile")
    assert "<title>Search</title>" in shown and "<script" not in shown
    assert shown.count("&lt;script&gt;document.title") >= 3 * 6


def test_thumbnails_from_a_folder_and_no_path_from_an_id(data, tmp_path):
    from PIL import Image

    root, *_ = data
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "secret.png")
    out = tmp_path / "page.html"
    arguments = ["query=a dog", f"images={tmp_path}/pictures", f"out={out}", "top=6"]
    with pytest.raises(ValueError, match="none of the 0 pictures in .* is named as an image"):
        command(configure(root, *arguments))
    Image.new("RGB", (8, 8), "red").save(tmp_path / "pictures/000123.PNG")
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "pictures/1e5.jpg")
    command(configure(root, *arguments))
    assert re.findall(r'<img src="data:image/jpeg[^>]*alt="([^"]*)"', out.read_text()) in (
        ["000123", "1e5"],
        ["1e5", "000123"],
    )


def test_an_index_is_written_once_and_belongs_to_its_split(data, tmp_path, capsys):
    root, matcher, *_ = data
    first = command(configure(root, "query=a dog", f"index={tmp_path}/index"))
    again = command(configure(root, "query=a dog", f"index={tmp_path}/index", "checkpoint=null"))
    assert capsys.readouterr().out.count("index written to") == 1
    assert [x.item for x in first[0].hits] == [x.item for x in again[0].hits]
    torch.manual_seed(1)
    other = type(matcher)(**matcher.hparams)
    other.vocab = matcher.vocab
    save(other, tmp_path / "other")
    with pytest.raises(ValueError, match="was made by another matcher"):
        arguments = ("query=a dog", f"index={tmp_path}/index", f"checkpoint={tmp_path}/other")
        command(configure(root, *arguments))
    with pytest.raises(ValueError, match="is not of split test"):
        command(configure(root, "query=a dog", f"index={tmp_path}/index", "data.limit=3"))


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["checkpoint=null"], "train a matcher first.*itm.train hydra.run.dir=run.*itm.search"),
        ([], "give query='a sentence', image=ID or queries=FILE"),
        (["query=a", "out=x.txt"], "out=x.txt must end in .html or .json"),
        (["query='  '"], "the query is empty"),
        (["image=nobody"], "image=nobody is not in split test"),
        (["query=a", "images=nowhere", "out=x.html"], "images=nowhere is not a folder"),
        (["query=a", "top=0"], "top=0: expected at least 1"),
        (["query=a", "checkpoint=null", "index=."], "no index in .: give checkpoint= to build one"),
    ],
)
def test_mistakes(data, overrides, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        command(configure(data[0], *overrides))


def test_from_training_to_a_page_on_the_command_line(tmp_path):
    small = ("data.root.images=[64,20,20]",)
    cache = {"ITM_CACHE": str(tmp_path / "cache")}
    train = ("trainer=fast", "model=vsrn", "model.embed_dim=16", "model.word_dim=8",
             "model.caption_dim=8", "model.caption_word_dim=8")  # fmt: skip
    run("train", *train, *small, "hydra.run.dir='run, one'", cwd=tmp_path, **cache)
    text = run("search", "checkpoint=run, one", f"query={QUERY}", "top=3", "out=o=1/page.html",
               *small, cwd=tmp_path, **cache)  # fmt: skip
    assert QUERY in text and "test-0-0" in text
    page = (tmp_path / "o=1/page.html").read_text()
    assert page.count("<img") == 3  # drawn scenes
    assert "[two] = 3 #dogs \\ ${x &amp; &lt;b&gt;é&lt;/b&gt;" in page
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "o=1", "run, one"]
    hits = itm.Index(itm.load(tmp_path / "run, one"), _test_split(tmp_path)).search(QUERY, 3)
    assert re.findall(r"\d\. (test-0-\d+), score", page) == [hit.item for hit in hits]


def _test_split(folder):
    from itm.data.layout import read_split

    return read_split(next((folder / "cache").glob("scenes-*")), "test")


def test_the_command_without_a_checkpoint_says_how_to_train_one(tmp_path):
    text = run("search", "query=a, b", cwd=tmp_path, fails=True)
    assert "error: give checkpoint=RUN" in text and "python -m itm.train" in text
    assert "Traceback" not in text and not list(tmp_path.iterdir())
