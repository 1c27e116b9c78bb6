"""What is told before a log file is open, and warnings, are in the log file, too."""

import logging
import warnings

import pytest

from itm.utils import log_files
from itm.utils.log_files import log, log_later, say, warnings_logged


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A log file that the root logger writes; nothing of other tests waits for it."""
    monkeypatch.setattr(log_files, "_early", [])
    handler = logging.FileHandler(tmp_path / "train.log")
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.getLogger().addHandler(handler)
    yield tmp_path / "train.log"
    logging.getLogger().removeHandler(handler)
    handler.close()


def test_early_texts_come_first_and_once(file):
    log_later("resumed with other options")
    log("epoch 1")
    log("epoch 2")
    assert file.read_text() == "resumed with other options\nepoch 1\nepoch 2\n"


def test_what_is_said_and_warned_is_logged(file, capsys):
    say("16% of the words are unknown")
    with pytest.warns(UserWarning, match="odd"), warnings_logged():
        warnings.warn("odd", stacklevel=1)
    assert file.read_text() == "16% of the words are unknown\nwarning: odd\n"
    assert capsys.readouterr().out == "16% of the words are unknown\n"
