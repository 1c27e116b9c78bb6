"""The words of large caption files are kept on disk, and never those of other captions."""

import os
import subprocess
import sys
from unittest.mock import patch

import numpy as np
import pytest
from corpus import write

from itm.data import word_cache
from itm.data.module import RegionDataModule
from itm.data.word_cache import cache_folder, cached_words
from itm.text.words import split_captions

TEXTS = [f"a dog no {i % 7} , isn't it ? \u4e24\u53ea\u72d7" for i in range(40)]


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    monkeypatch.setenv("ITM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(word_cache, "FEWEST", 10)


def same(found, captions, tokenizer="treebank"):
    expected = split_captions(captions, tokenizer)
    return found.words == expected.words and list(found.numbers) == list(expected.numbers)


def refuse_to_split(*_):
    raise AssertionError("the captions were split again")


def test_a_second_run_reads_the_words(monkeypatch):
    assert same(cached_words(TEXTS, "treebank"), TEXTS)
    monkeypatch.setattr(word_cache, "split_captions", refuse_to_split)
    assert same(cached_words(TEXTS, "treebank"), TEXTS)
    with pytest.raises(AssertionError, match="again"):
        cached_words(TEXTS, "treebank", cache=False)


def test_other_captions_tokenisers_and_versions_have_other_files(monkeypatch):
    cached_words(TEXTS, "treebank")
    changed = [*TEXTS[:-1], "a cat"]
    assert same(cached_words(changed, "treebank"), changed)
    assert same(cached_words(TEXTS[::-1], "treebank"), TEXTS[::-1])
    assert same(cached_words(TEXTS, "characters"), TEXTS, "characters")
    joined = [f"{TEXTS[0]}\n{TEXTS[1]}", *TEXTS[2:], "a"]  # the same lines, other captions
    assert same(cached_words(joined, "treebank"), joined)
    assert len(list(cache_folder().iterdir())) == 5
    monkeypatch.setattr(word_cache, "VERSION", 2)
    cached_words(TEXTS, "treebank")
    assert len(list(cache_folder().iterdir())) == 6


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "another"])
def test_a_damaged_file_is_written_again(damage, capsys):
    cached_words(TEXTS, "treebank")
    (path,) = cache_folder().iterdir()
    whole = path.read_bytes()
    if damage == "another":
        np.savez(path, words=np.zeros(3, np.uint8), numbers=np.ones(3, np.uint8))
    else:
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        path.write_bytes({"cut": whole[:-200], "flipped": flipped, "empty": b""}[damage])
    assert same(cached_words(TEXTS, "treebank"), TEXTS)
    if damage != "flipped" or path.read_bytes() == whole:
        assert "splitting 40 captions again" in capsys.readouterr().out
    assert same(cached_words(TEXTS, "treebank"), TEXTS)


def test_arrays_of_other_captions_are_refused(capsys):
    cached_words(TEXTS, "treebank")
    (path,) = cache_folder().iterdir()
    word_cache._write(path, split_captions(TEXTS[:20], "treebank"))
    assert same(cached_words(TEXTS, "treebank"), TEXTS)
    assert "do not belong together" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_reported(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ITM_CACHE", str(tmp_path / "file"))
    assert same(cached_words(TEXTS, "treebank"), TEXTS)
    assert "are not kept for later runs" in capsys.readouterr().out


def test_the_files_that_were_not_used_for_longest_are_removed():
    def use(number):
        before = set(cache_folder().glob("*"))
        cached_words([*TEXTS, str(number)], "treebank")
        return set(cache_folder().iterdir()) - before

    files = []
    for number in range(word_cache.MOST):
        files += use(number)
        os.utime(files[-1], (number, number))
    use(0)  # the file that was written first is read, so it was used last
    newest = use("another")
    assert set(cache_folder().iterdir()) == {files[0], *files[2:], *newest}


def test_two_processes_write_at_once(tmp_path):
    code = (
        "from itm.data import word_cache; word_cache.FEWEST = 10\n"
        "found = word_cache.cached_words([f'a dog {i}' for i in range(50)], 'treebank')\n"
        "assert found[49] == ['a', 'dog', '49']"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    both = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert len(list(cache_folder().iterdir())) == 1


def test_captions_of_a_run_are_split_once(tmp_path):
    write(tmp_path / "data", images=8)
    write(tmp_path / "data", "dev")
    with patch.object(word_cache, "split_captions", wraps=split_captions) as split:
        data = RegionDataModule(tmp_path / "data", min_count=1, needs=("labels", "concepts"))
        data.setup("fit")
        data.reader("train"), data.reader("val")
    assert split.call_count == 2  # train and dev
    with patch.object(word_cache, "split_captions", refuse_to_split):
        again = RegionDataModule(tmp_path / "data", min_count=1, needs=("labels", "concepts"))
        again.setup("fit")
        assert list(again.reader("train").tokens) == list(data.reader("train").tokens)
        assert np.array_equal(again.reader("train").labels, data.reader("train").labels)
        assert np.array_equal(again.reader("val").concepts, data.reader("val").concepts)


def test_a_file_that_another_process_removes_meanwhile_is_no_failure(capsys):
    cache_folder().mkdir(parents=True)
    (cache_folder() / "gone.npz").symlink_to("nowhere")  # is listed, but has no date
    cached_words(TEXTS, "treebank")
    assert not capsys.readouterr().out and len(list(cache_folder().iterdir())) == 2
