import numpy as np
import pytest
import torch
from browser import dom
from cli import run
from PIL import Image
from toy import MeanMatcher

import itm
from itm.app.config import compose
from itm.data.layout import find_row, read_split
from itm.data.pictures import Pictures
from itm.explain import command, explain
from itm.matcher.explanation import WAYS, Details, strongest
from itm.matcher.saved import save as save_matcher
from itm.scenes import write_scenes
from itm.visual import draw_explanation, save
from itm.visual.explanation_figure import Seen, content, lit

CAPTION = "a man and two red dogs on the beach ."
IMAGES = "data.root.images=[40,6,6]"
WIDTHS = {
    "casc": ["model.hidden=8"],
    "cvse": [],
    "sgr": ["model.sim_dim=8"],
    "saf": ["model.sim_dim=8"],
    "vsrn": ["model.caption_weight=0"],
}


@pytest.fixture(scope="module")
def split():
    return read_split(write_scenes(images=(40, 6, 6)), "test")


def small(model, *overrides):
    torch.manual_seed(0)
    sizes = ["model.embed_dim=16", "model.word_dim=8", IMAGES, "data.min_count=1"]
    if model.startswith("two_branch"):
        sizes.append("model.hidden_dim=16")
    return itm.build(model, overrides=[*sizes, *WIDTHS.get(model, []), *overrides]).eval()


def encoded(matcher, regions):
    pairs = matcher.pairs(regions[None], [CAPTION])
    with torch.no_grad():
        return pairs, matcher.encode_images(pairs.images), matcher.encode_captions(pairs.captions)


@pytest.mark.parametrize("model", ["scan_t2i", "scan_i2t", "casc", "chan", "sgr", "saf"])
def test_attention_is_the_matchers(split, model):
    matcher, regions = small(model), split.images(np.array([2]))[0]
    found = explain(matcher, regions, CAPTION)
    _, images, captions = encoded(matcher, regions)
    expected = matcher.attention(images, captions)[0, 0].numpy()
    first = next(iter(found.details.attention.values()))
    assert first.shape == (len(regions), len(found.tokens))
    np.testing.assert_allclose(first, expected, atol=1e-6)
    assert found.score == pytest.approx(matcher.score(regions[None], [CAPTION])[0, 0], abs=1e-6)
    assert found.tokens[0] == "<start>" and "dogs" in found.tokens
    axis = 1 if model == "scan_i2t" else 0  # regions read words, or words look at regions
    np.testing.assert_allclose(first.sum(axis), 1, atol=1e-5)
    assert (list(found.details.attention)[0] == WAYS["i2t"]) == (model == "scan_i2t")


def test_casc_labels_by_hand(split):
    matcher, regions = small("casc"), split.images(np.array([2]))[0]
    found = explain(matcher, regions, CAPTION)
    _, images, captions = encoded(matcher, regions)
    to_regions, to_words = (found.details.attention[WAYS[k]] for k in ("t2i", "i2t"))
    with torch.no_grad():
        vector = torch.from_numpy(to_regions).mean(1) @ images.parts[0]
        image = matcher.head(vector).sigmoid().numpy()
        vector = torch.from_numpy(to_words).mean(0) @ captions.parts[0]
        text = matcher.head(vector).sigmoid().numpy()
    words = matcher.labels.words
    for word, of_image, of_text in found.details.names["labels"]:
        k = words.index(word)
        assert (of_image, of_text) == pytest.approx((image[k], text[k]), abs=1e-5)
    best = words[int((image + text).argmax())]
    assert found.details.names["labels"][0][0] == best


def test_sgraf_weights(split):
    regions = split.images(np.array([2]))[0]
    found = explain(small("saf"), regions, CAPTION).details
    (weights,) = found.words.values()
    assert 0 < weights.sum() < 1 and not found.edges  # the rest is the global node's
    found = explain(small("sgr"), regions, CAPTION).details
    (edges,) = found.edges.values()
    np.testing.assert_allclose(edges.sum(1), 1, atol=1e-5)
    assert not found.words


def test_cvse_concepts(split):
    matcher, regions = small("cvse"), split.images(np.array([2]))[0]
    found = explain(matcher, regions, CAPTION)
    names = found.details.names["concepts"]
    own = {w for w in matcher.concepts.words if w in CAPTION.split()}
    assert own and {word for word, _, _ in names} >= own or len(own) > len(names)
    pairs, *_ = encoded(matcher, regions)
    with torch.no_grad():
        scores = matcher.region_scores(pairs.images)[0].numpy()
    (shown,) = found.details.regions.values()
    np.testing.assert_allclose(shown, scores, atol=1e-6)
    assert not matcher.image.weight.grad


def test_rankings_of_regions(split):
    regions = split.images(np.array([2]))[0]
    matcher = small("vsrn")
    pairs, *_ = encoded(matcher, regions)
    (shown,) = explain(matcher, regions, CAPTION).details.regions.values()
    with torch.no_grad():
        np.testing.assert_allclose(shown, matcher.region_scores(pairs.images)[0], atol=1e-6)
    matcher = small("two_branch_embedding", "model.level=region")
    found = explain(matcher, regions, CAPTION)
    (shown,) = found.details.regions.values()
    with torch.no_grad():
        np.testing.assert_allclose(shown, matcher.ground(*pairs[:2])[0], atol=1e-6)
    assert found.score == pytest.approx(shown.max(), abs=1e-6)  # an image scores as its best region


def test_matchers_that_weigh_nothing_say_so(split):
    regions = split.images(np.array([2]))[0]
    with pytest.raises(ValueError, match="train one with model.level=region"):
        explain(small("two_branch_embedding"), regions, CAPTION)
    matcher = MeanMatcher(100, split.width)
    with pytest.raises(ValueError, match="no vocabulary"):
        explain(matcher, regions, CAPTION)
    vocab = small("scan_t2i").vocab
    matcher = MeanMatcher(len(vocab), split.width)
    matcher.vocab = vocab
    with pytest.raises(ValueError, match="MeanMatcher compares one vector"):
        explain(matcher, regions, CAPTION)


class Telling(MeanMatcher):
    def details(self, pairs, images, captions):
        return Details(words={"length": np.array(pairs.captions.lengths)})


def test_a_matcher_of_your_own_tells_its_own_details(split):
    vocab = small("scan_t2i").vocab
    matcher = Telling(len(vocab), split.width)
    matcher.vocab = vocab
    found = explain(matcher, split.images(np.array([2]))[0], CAPTION)
    assert found.details.words["length"].tolist() == [len(found.tokens)]


@pytest.mark.parametrize("model", ["casc", "cvse", "sgr"])
def test_details_are_those_of_any_gradient_mode(split, model):
    matcher, regions = small(model), split.images(np.array([2]))[0]
    first = explain(matcher, regions, CAPTION)
    with torch.no_grad():
        second = explain(matcher, regions, CAPTION)
    assert first.score == second.score and first.details.names == second.details.names


def test_strongest():
    names = strongest(["a", "b", "c"], np.array([0.1, 0.9, np.nan]), np.array([0.2, 0.0, 0.5]))
    assert [name for name, _, _ in names] == ["b", "c", "a"]


# Pictures -----------------------------------------------------------------------------------------


def test_words_with_a_meaning():
    tokens = ["<start>", "a", "man", "##ly", ".", "<end>"]
    assert content(tokens) == [2, 3]
    assert content(["the", "of"]) == [0, 1] and content(["!", "?"]) == [0, 1]


def test_light_by_pixel():
    boxes = np.array([[0, 0, 0.5, 1], [0.25, 0, 1, 0.5], [0, 0, 1, 1]])
    weights = np.array([0.5, 0.25, -1.0])
    light = lit(weights, Seen(np.zeros((4, 8, 3)), boxes))
    expected = np.zeros((4, 8))
    for y in range(4):
        for x in range(8):
            expected[y, x] = 0.5 * (x < 4) + 0.25 * (x >= 2 and y < 2)
    np.testing.assert_allclose(light, expected / 0.75)
    assert not lit(np.zeros(3), Seen(np.zeros((4, 8, 3)), boxes)).any()


DRAWN = ["scan_t2i", "casc", "chan", "cvse", "sgr", "saf", "vsrn", "vse_infty"]


@pytest.mark.parametrize("model", DRAWN)
def test_every_kind_is_drawn(split, model, tmp_path):
    caption = "two $5 dogs, <b>and</b> $x_ a 狗 of 90 % {}"
    found = explain(small(model), split.images(np.array([2]))[0], caption)
    picture = Pictures(split).full(split.ids[2])
    assert picture.size == (480, 360)
    for name, figure in (
        ("with", draw_explanation(found, picture, split.boxes[2])),
        ("without", draw_explanation(found)),
    ):
        save(figure, tmp_path / f"{name}.png")
        pixels = np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB"))
        assert pixels.std() > 10 and pixels.shape[1] == 990
    assert caption in figure.get_suptitle()
    with pytest.raises(ValueError, match="boxes must be fractions .* got .* to 480: divide pixels"):
        draw_explanation(found, picture, np.array([[0, 0, 480, 300]] * len(split.boxes[2])))


# The command --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_matcher(small("scan_t2i"), tmp_path_factory.mktemp("scan"))


def test_command_reads_any_sentence(folder, tmp_path, split):
    caption = 'a man, "his" dog\'s ball = [red] {x} # <script>alert(1)</script>'
    out = tmp_path / "page.html"
    text = run(
        "explain", f"checkpoint={folder}", f"image={split.ids[1]}", f"caption={caption}",
        f"out={out}", IMAGES, f"hydra.run.dir={tmp_path}/run", cwd=tmp_path,
    )  # fmt: skip
    assert split.ids[1] in text
    assert "<script>" not in out.read_text(encoding="utf-8")
    assert "&lt;script&gt;" in dom(out, tmp_path / "browser")


def configured(folder, *overrides):
    return compose([f"checkpoint={folder}", IMAGES, *overrides], "explain")


def test_default_caption_and_pictures_of_a_folder(folder, tmp_path, split):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.new("RGB", (64, 48), (0, 255, 0)).save(pictures / f"{split.ids[3]}.png")
    out = tmp_path / "new" / "a.png"
    command(configured(folder, "image=3", f"images={pictures}", f"out={out}"))
    pixels = np.asarray(Image.open(out).convert("RGB")).astype(int)
    green = (pixels[..., 1] > 60) & (pixels[..., 0] < 10) & (pixels[..., 2] < 10)
    assert green.mean() > 0.2
    with pytest.raises(ValueError, match="none of the 1 pictures"):
        other = tmp_path / "other"
        other.mkdir()
        (pictures / f"{split.ids[3]}.png").rename(other / "unknown.png")
        command(configured(folder, f"images={other}", f"out={out}", "overwrite=true"))


def test_wrong_inputs(folder, tmp_path, split):
    with pytest.raises(ValueError, match="give checkpoint=RUN"):
        command(compose(name="explain"))
    with pytest.raises(ValueError, match="expected a .png"):
        command(configured(folder, "out=a.txt"))
    for image in ("nobody", "6", "-1"):
        with pytest.raises(ValueError, match=f"image={image} is not in split test"):
            find_row(split, image)
    assert find_row(split, split.ids[4]) == 4 and find_row(split, "5") == 5
    assert find_row(split, None) == 0
    broken = tmp_path / f"{split.ids[0]}.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(ValueError, match="not a picture that can be read"):
        command(configured(folder, f"images={tmp_path}", f"out={tmp_path}/a.png"))
