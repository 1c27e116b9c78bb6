"""What docs/bad_data.md promises; docs/bad_data_tests.md names the test of each row."""

import re
from pathlib import Path

import numpy as np
import pytest
from corpus import write
from toy import MeanMatcher

import itm
from itm.data.check import caption_problems
from itm.data.layout import read_captions, read_split
from itm.data.module import RegionDataModule
from itm.data.padding import make_captions
from itm.layers.text import GRUText
from itm.losses import Triplet
from itm.models import CVSE, SGRAF, TwoBranchEmbedding
from itm.text.labels import Labels
from itm.text.vocabulary import SPECIALS, Vocabulary

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
    for name in ("train", "dev", "test"):
        write(tmp_path, name)
    return tmp_path


def module(folder, **options):
    data = RegionDataModule(folder, min_count=1, batch_size=8, **options)
    data.setup()
    return data


def lines(folder, change, name="train_caps.txt"):
    path = folder / name
    rows = path.read_bytes().split(b"\n")
    change(rows)
    path.write_bytes(b"\n".join(rows))


# Captions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "\0"])
def test_other_separators_are_part_of_a_caption(folder, text):
    """Python's own readers would split there, and shift all later captions."""
    lines(folder, lambda rows: rows.__setitem__(3, f"image 0{text} caption 3".encode()))
    split = read_split(folder, "train")
    assert len(split.captions) == 30 and split.captions[4] == "image 0 caption 4 a dog"
    assert "".join(split.captions[3].split()).replace("\0", "") == "image0caption3"
    data = module(folder)
    assert sum(len(pairs.captions.lengths) for pairs in data.train_dataloader()) == 30


def test_windows_line_ends_and_byte_order_mark_change_nothing(folder):
    before = read_captions(folder / "train_caps.txt")
    path = folder / "train_caps.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_captions(path) == before


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_other_encodings_are_named(folder, encoding):
    path = folder / "train_caps.txt"
    path.write_bytes(path.read_text().replace("dog", "caf\xe9").encode(encoding))
    with pytest.raises(ValueError, match="train_caps.txt:1: not UTF-8.*iconv"):
        read_split(folder, "train")


def test_an_empty_line_in_the_middle_and_at_the_end(folder):
    path = folder / "train_caps.txt"
    whole = path.read_bytes()
    middle = whole.replace(b"\n", b"\n\n", 1)
    for text, number in ((middle, 2), (whole + b"\n", 31), (whole + b"\r\n", 31)):
        path.write_bytes(text)
        with pytest.raises(ValueError, match=f"train_caps.txt:{number}: blank line"):
            read_split(folder, "train")
    for text in (whole, whole.removesuffix(b"\n"), whole + b" "):
        path.write_bytes(text)
        assert len(read_split(folder, "train").captions) == 30


@pytest.mark.parametrize("captions_per_image", [None, 5])
@pytest.mark.parametrize("repeat", [1, 5])
def test_one_line_short(folder, captions_per_image, repeat):
    write(folder, "train", repeat=repeat)
    lines(folder, lambda rows: rows.pop(7))
    with pytest.raises(ValueError, match="29 captions .* (6|30) images.*a line is missing"):
        read_split(folder, "train", captions_per_image)


def test_not_five_captions_an_image(folder):
    write(folder, "train", per_image=4)
    assert read_split(folder, "train").caption_image[-1] == 5
    with pytest.raises(ValueError, match="24 captions .* expected 5 captions per image"):
        read_split(folder, "train", 5)
    write(folder, "train", per_image=1)
    np.save(folder / "train_ims.npy", np.zeros((6, 3, 4), np.float32))
    with pytest.raises(ValueError, match="6 captions .* expected 4 captions per image"):
        read_split(folder, "train", 4)


def test_a_long_caption_is_kept_and_reported(folder):
    long = " ".join(["dog"] * 300)
    lines(folder, lambda rows: rows.__setitem__(0, long.encode()))
    data = module(folder)
    assert max(n for pairs in data.train_dataloader() for n in pairs.captions.lengths) == 302
    found = caption_problems(folder / "train_caps.txt")
    assert "1 of more than 100 words (line 1)" in found


def test_captions_of_a_table_are_judged_without_their_ids(tmp_path):
    table = tmp_path / "train_caps.tsv"
    table.write_text("".join(f"image {i} of many words\tdog\n" for i in range(30)))
    found = caption_problems(table)
    assert "29 of 30 captions occurred before in the same words" in found
    assert any(text.startswith("30 of fewer than") for text in found)


def test_a_caption_of_unknown_words(folder):
    matcher = MeanMatcher(6, 4)
    matcher.vocab = Vocabulary([*SPECIALS, "a", "dog"])
    assert matcher.vocab.encode("zyzzyva xyster") == [1, 3, 3, 2]
    assert np.isfinite(matcher.score(np.ones((2, 3, 4), np.float32), ["zyzzyva"])).all()
    # A published vocabulary without <unk> and markers leaves nothing: a mean is zero, a GRU stops.
    bare = Vocabulary(["<pad>", "a", "dog"], markers=False)
    assert bare.encode("zyzzyva") == []
    matcher = TwoBranchEmbedding(vocab_size=3, img_dim=4, word_dim=4, hidden_dim=4, embed_dim=4)
    matcher.vocab = bare
    assert np.isfinite(matcher.score(np.ones((2, 3, 4), np.float32), ["zyzzyva", "a"])).all()
    with pytest.raises(ValueError, match="caption 1 of the batch has no known word"):
        GRUText(3, 4, 4)(make_captions([[1], []], [0, 1], [0, 1]))


# Features -----------------------------------------------------------------------------------------


def cut(folder):
    path = folder / "train_ims.npy"
    path.write_bytes(path.read_bytes()[:-8])


def archive(folder):
    with (folder / "train_ims.npy").open("wb") as file:
        np.savez(file, np.zeros((6, 3, 4), np.float32))


@pytest.mark.parametrize(
    "change, message",
    [
        (cut, "train_ims.npy .*not a complete .npy file.*copy it again"),
        (lambda f: (f / "train_ims.npy").write_bytes(b""), "0 bytes.*not a complete .npy"),
        (archive, "train_ims.npy .*not a complete .npy"),
        (lambda f: np.save(f / "train_ims.npy", np.zeros((6, 3, 4, 2))), r"\(6, 3, 4, 2\)"),
        (lambda f: np.save(f / "train_ims.npy", np.zeros((6, 3, 4), np.int32)), "int32"),
        (lambda f: np.save(f / "train_ims.npy", np.zeros((6, 0, 4))), r"\(6, 0, 4\)"),
        (lambda f: np.save(f / "train_ims.npy", np.zeros(6)), r"float64 \(6,\)"),
    ],
)
def test_wrong_arrays_name_the_file(folder, change, message):
    change(folder)
    with pytest.raises(ValueError, match=message):
        read_split(folder, "train")


@pytest.mark.parametrize("dtype", [">f4", "<f8", "<f2"])
def test_other_float_types_are_read(folder, dtype):
    features = np.load(folder / "train_ims.npy").astype(dtype)
    np.save(folder / "train_ims.npy", np.asfortranarray(features))
    block = read_split(folder, "train").images(np.arange(6))
    assert block.dtype == np.float32
    np.testing.assert_allclose(block, features, rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("workers", [0, 2])
def test_nan_and_infinite_features_name_file_and_row(folder, value, workers):
    features = np.load(folder / "train_ims.npy")
    features[4, 1, 2] = value
    np.save(folder / "train_ims.npy", features)
    with pytest.raises(ValueError, match="train_ims.npy row 4 holds NaN or infinite"):
        list(module(folder, workers=workers).train_dataloader())
    matcher = MeanMatcher(4, 4)
    matcher.vocab = Vocabulary([*SPECIALS])
    for use in (matcher.score, matcher.pairs):
        with pytest.raises(ValueError, match="features of image 4 hold NaN or infinite"):
            use(features, ["a"] * 6)


def test_splits_of_different_widths(folder):
    write(folder, "dev", shape=(3, 5))
    data = module(folder)
    with pytest.raises(ValueError, match="dev_ims.npy .* width 5, train_ims.npy of width 4"):
        data.describe()


def test_region_counts_that_differ(folder):
    """From split to split, or from image to image in a list; batch norms over regions want one."""
    write(folder, "dev", shape=(2, 4))
    matcher = MeanMatcher(20, 4)
    matcher.vocab = module(folder).vocabulary
    lists = [np.ones((n, 4), np.float32) for n in (3, 2)]
    for features in (read_split(folder, "dev").view(), lists):
        assert np.isfinite(matcher.score(features, ["a dog"])).all()
    for model in (SGRAF, CVSE):
        options = {"num_concepts": 2, "concept_dim": 3} if model is CVSE else {"sim_dim": 4}
        fixed = model(len(matcher.vocab), 4, num_regions=3, word_dim=3, embed_dim=4, **options)
        fixed.vocab = matcher.vocab
        with pytest.raises(ValueError, match="num_regions"):
            fixed.score(read_split(folder, "dev").view(), ["a dog"])


def test_zero_vectors_are_data(folder):
    np.save(folder / "train_ims.npy", np.zeros((6, 3, 4), np.float32))
    pairs = next(iter(module(folder).train_dataloader()))
    matcher = MeanMatcher(20, 4, loss=Triplet())
    matcher.losses(pairs)["total"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in matcher.parameters())


# Splits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ids, message",
    [
        (b"a\nb\nc\na\ne\nf\n", "id 'a' names image 0 and image 3"),
        (b"a\nb\n", "2 ids for 6 images"),
        (b"a\nb\n\nd\ne\nf\n", "train_ids.txt:3: blank line"),
        (b"a\nb\n\xff\nd\ne\nf\n", "train_ids.txt:3: not UTF-8"),
    ],
)
def test_ids_that_do_not_match(folder, ids, message):
    (folder / "train_ids.txt").write_bytes(ids)
    with pytest.raises(ValueError, match=message):
        read_split(folder, "train")


def test_an_empty_split(folder):
    np.save(folder / "dev_ims.npy", np.zeros((0, 3, 4), np.float32))
    (folder / "dev_caps.txt").write_text("")
    with pytest.raises(ValueError, match="dev"):
        read_split(folder, "dev")
    for name in ("limit", "val_images"):
        with pytest.raises(ValueError, match=f"data.{name} must be at least 1, got 0"):
            RegionDataModule(folder, **{name: 0})


def test_a_batch_of_one(folder):
    """30 captions in batches of 29: most matchers train on the one left; batch norms cannot."""
    data = module(folder)
    data.batch_size = 29
    *_, one = data.train_dataloader()
    assert len(one.captions.lengths) == 1
    matcher = MeanMatcher(len(data.vocabulary), 4, loss=Triplet())
    assert matcher.losses(one)["total"].isfinite()
    fixed = SGRAF(len(data.vocabulary), 4, num_regions=3, word_dim=3, embed_dim=4, sim_dim=4)
    fixed.loss = Triplet()
    with pytest.raises(ValueError, match="use data.drop_last=true"):
        fixed.losses(one)


# Vocabularies -------------------------------------------------------------------------------------


def test_a_label_list_under_another_name_is_the_same():
    matcher, same, other = (MeanMatcher(5, 4) for _ in range(3))
    matcher.labels = Labels(["dog", "cat"], source="a.json")
    same.labels = Labels(["dog", "cat"], source="b.json")
    other.labels = Labels(["cat", "dog"], source="a.json")
    checkpoint = {}
    matcher.on_save_checkpoint(checkpoint)
    same.on_load_checkpoint(checkpoint)
    with pytest.raises(ValueError, match="the checkpoint's labels differs from the data's"):
        other.on_load_checkpoint(checkpoint)


def test_a_vocabulary_from_elsewhere(folder, tmp_path):
    mine, other = module(folder).vocabulary, Vocabulary([*SPECIALS, "zebra"])
    matcher = MeanMatcher(len(mine), 4)
    matcher.vocab = mine
    checkpoint = {}
    matcher.on_save_checkpoint(checkpoint)
    stranger = MeanMatcher(len(other), 4)
    stranger.vocab = other
    with pytest.raises(ValueError, match="the checkpoint's vocab differs from the data's"):
        stranger.on_load_checkpoint(checkpoint)
    with pytest.raises(
        ValueError, match="vocabulary has .* words, but MeanMatcher has vectors for only 5"
    ):
        stranger.vocab = mine
        stranger.score(np.ones((1, 3, 4), np.float32), ["a dog"])
    same_size = Vocabulary([*mine.words[:-1], "zebra"])
    stranger.vocab = same_size  # told apart by the words, not by their number
    with pytest.raises(ValueError, match="the checkpoint's vocab differs from the data's"):
        stranger.on_load_checkpoint(checkpoint)
    with pytest.raises(ValueError, match="vocab_size=5, but the data has"):
        overrides = ["model.vocab_size=5", "data.limit=20", "data.root.images=[20,10,10]"]
        itm.build(model="two_branch_embedding", overrides=overrides)


# The page -----------------------------------------------------------------------------------------


def rows_of(page):
    """Return section -> first and last cell of each row of its table."""
    found = {}
    for section in (ROOT / page).read_text("utf-8").split("\n## ")[1:]:
        title, *lines = section.splitlines()
        cells = [re.findall(r"(?<=\| ).*?(?= \|)", line) for line in lines if line.startswith("| ")]
        if cells:
            found[title] = [(row[0], row[-1]) for row in cells[2:]]
    return found


def test_every_row_of_the_page_has_a_test():
    rows, tests = rows_of("docs/bad_data.md"), rows_of("docs/bad_data_tests.md")
    questions = tests.pop("Questions")
    assert sum(map(len, rows.values())) > 140
    assert {title: [row for row, _ in found] for title, found in tests.items()} == {
        title: [row for row, _ in found] for title, found in rows.items()
    }
    asked = re.findall(r"^\*\*(.+?)\*\*", (ROOT / "docs/questions.md").read_text("utf-8"), re.M)
    assert {row for row, _ in questions} <= set(asked)
    own = {name for name in globals() if name.startswith("test_")}
    kinds = r"((?:`test_\w+`(?:, )?)+)(?: \(`(tests/\S+)`\)(?:, )?)?"
    for row, cell in [*(pair for found in tests.values() for pair in found), *questions]:
        assert re.fullmatch(f"(?:{kinds})+", cell), row
        for names, file in re.findall(kinds, cell):
            text = (ROOT / file).read_text("utf-8") if file else ""
            for name in re.findall(r"test_\w+", names):
                assert f"def {name}(" in text if file else name in own, (row, name)
