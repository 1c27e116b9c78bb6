import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import itm.visual
from itm.phrases.split import phrase_split
from itm.visual.explanation_figure import region_boxes
from itm.visual.report_figures import against, plot_ranks, recall_figure, recalls

RANKS = np.array([0, 3, -1, 9, 0])  # the third query has no answer


def test_recall_by_counting():
    known = RANKS[RANKS >= 0]
    expected = [100 * np.mean(known < k) for k in range(1, 12)]
    np.testing.assert_allclose(recalls(RANKS, np.arange(1, 12)), expected)


def test_lines_are_means_over_seeds():
    seeds = [{"i2t": RANKS, "t2i": RANKS + 1}, {"i2t": RANKS + 2, "t2i": RANKS}]
    left, right = recall_figure({"a": seeds, "b": seeds[:1]}, np.arange(1, 6)).axes
    for axes, way in ((left, "i2t"), (right, "t2i")):
        expected = np.mean([recalls(seed[way], np.arange(1, 6)) for seed in seeds], 0)
        np.testing.assert_allclose(axes.lines[0].get_ydata(), expected)
        assert [line.get_label() for line in axes.lines] == ["a", "b"]


def test_ranks_of_matchers_are_drawn_to_the_last_one(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr("itm.visual.report_figures.save", lambda *x: kept.append(x))
    plot_ranks({"a": (RANKS, RANKS[:2]), "b": (RANKS[:2], RANKS[:2])}, tmp_path / "ranks.png")
    ((figure, path),) = kept
    assert path.name == "ranks.png"
    xs, ys = figure.axes[0].lines[0].get_data()
    assert (xs[0], xs[-1], ys[-1]) == (1, 10, 100)


def test_a_mean_over_some_of_the_runs_says_so():
    def run(margin, **metrics):
        return SimpleNamespace(settings={"loss.margin": margin}, metrics=metrics)

    groups = {
        "loss.margin=0.1": [run(0.1, i2t_r1=1.0, t2i_r1=5.0), run(0.1, i2t_r1=3.0, t2i_r1=5.0)],
        "loss.margin=0.2": [run(0.2, i2t_r1=2.0, t2i_r1=4.0), run(0.2, i2t_r1=2.0)],
    }
    left, right = against(groups, "loss.margin", ("i2t_r1", "t2i_r1")).axes
    assert [text.get_text() for text in left.texts] == ["", ""]
    assert [(text.get_text(), text.xy) for text in right.texts] == [
        ("", (0.1, 5.0)), ("(1 of 2)", (0.2, 4.0))
    ]  # fmt: skip


def test_boxes_in_pixels_become_fractions():
    boxes = np.array([[[0, 0, 32, 12]], [[16, 6, 64, 24]]])
    split = SimpleNamespace(boxes=boxes, row=np.array([1, 0]), ids=["a", "b"])
    picture = Image.new("RGB", (64, 24))
    thumbnail = Image.new("RGB", (32, 12))
    with pytest.raises(ValueError, match="image a: .* reaches out of the picture of 32 x 12 .*lar"):
        region_boxes(split, 0, thumbnail)
    np.testing.assert_allclose(region_boxes(split, 0, picture), [[0.25, 0.25, 1, 1]])
    split.boxes = boxes / np.array([64, 24, 64, 24])
    np.testing.assert_allclose(region_boxes(split, 1, picture), [[0, 0, 0.5, 0.5]])
    assert region_boxes(split, 1, None) is None
    split.boxes = None
    assert region_boxes(split, 1, picture) is None


def test_phrases_of_an_image(tmp_path):
    from itm.data.layout import read_split
    from itm.data.pictures import Pictures
    from itm.phrases.files import read_phrases
    from itm.scenes import write_scenes

    split = read_split(write_scenes(images=(40, 6, 6)), "test")
    phrases = phrase_split(split, read_phrases(None, split))
    scores = np.random.default_rng(0).normal(size=(len(phrases.phrases), split.regions))
    picture = Pictures(split).full(split.ids[2])
    figure = itm.visual.draw_image(picture, phrases, scores, 2)
    named = [line.get_text() for line in figure.legends[0].get_texts()]
    own = [phrases.captions[row] for row in np.flatnonzero(phrases.caption_image == 2)]
    assert named and set(named) <= set(own)
    patches = figure.axes[0].patches
    assert len(patches) == 2 * len(named)  # found, and where it should be
    rows = [r for r in np.flatnonzero(phrases.caption_image == 2) if phrases.captions[r] in named]
    size = np.array(picture.size * 2)
    best = {tuple(np.round(split.boxes[2][scores[r].argmax()] * size)) for r in rows}
    for patch in patches[::2]:
        x, y = patch.get_xy()
        corners = (x, y, x + patch.get_width(), y + patch.get_height())
        assert tuple(np.round(corners)) in best
    with pytest.raises(ValueError, match="no phrase belongs to image 6"):
        itm.visual.draw_image(picture, phrases, scores, 6)


def test_phrases_with_dollars_and_underscores_are_named(tmp_path):
    boxes = np.array([[0, 0, 1, 1]] * 2)
    figure = itm.visual.draw_phrases(Image.new("RGB", (8, 8)), ["_$x^$", "$"], boxes)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [r" _\$x^\$", r"\$"]
    itm.visual.save(figure, tmp_path / "a.png")


def test_characters_that_the_font_lacks_are_saved_without_a_warning(tmp_path):
    figure = itm.visual.draw_phrases(Image.new("RGB", (8, 8)), ["狗 $x_"], np.array([[0, 0, 1, 1]]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        itm.visual.save(figure, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (660, 660)
