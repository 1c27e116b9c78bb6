"""A signal ends every command with one line and its own exit status, not with a traceback."""

import importlib
import os
import signal

import pytest

from itm.app.signals import stopped_by_signals, usual_signals
from itm.utils.files import replacing

NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def _usual():
    """Start without what the tests were started with: a shell's background jobs ignore Ctrl-C."""
    usual = [signal.default_int_handler, signal.SIG_DFL, signal.SIG_DFL]
    before = [signal.signal(*pair) for pair in zip(NUMBERS, usual, strict=True)]
    yield
    for pair in zip(NUMBERS, before, strict=True):
        signal.signal(*pair)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    return tmp_path


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(
    "name", ["evaluate", "prepare", "extract", "search", "explain", "localise", "report", "convert"]
)
def test_a_signal_ends_a_command_in_one_line(name, number, here, monkeypatch, capfd):
    module = importlib.import_module(f"itm.{name}")
    monkeypatch.setattr(module, "command", lambda cfg: signal.raise_signal(number))
    monkeypatch.setattr("sys.argv", [f"itm.{name}", "hydra.run.dir=out"])
    before = [signal.getsignal(x) for x in NUMBERS]
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 128 + number
    assert capfd.readouterr().err.split("\n") == ["", f"stopped by {number.name}", ""]
    assert [signal.getsignal(x) for x in NUMBERS] == before


@pytest.mark.parametrize("more", [[], ["-m", "seed=0,1"]], ids=["run", "sweep"])
def test_a_signal_before_the_training(more, here, monkeypatch, capfd):
    from itm import train

    seen = []

    def build(*arguments):
        seen.append(arguments)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("itm.app.training_run.build_training", build)
    options = [*more, "hydra.run.dir=run", "hydra.sweep.dir=sweep"]
    monkeypatch.setattr("sys.argv", ["itm.train", *options])
    with pytest.raises(SystemExit) as ended:
        train.main()
    assert ended.value.code == 128 + signal.SIGTERM and len(seen) == 1
    assert capfd.readouterr().err.strip() == "stopped by SIGTERM"
    (log,) = here.rglob("train.log")
    assert log.read_text().endswith("stopped by SIGTERM\n")


def test_files_in_the_making_are_removed_and_a_second_signal_kills(here):
    with pytest.raises(SystemExit), stopped_by_signals():
        try:
            with replacing(here / "f") as file:
                file.write(b"half of it")
                file.flush()
                assert list(here.iterdir())
                signal.raise_signal(signal.SIGTERM)
        finally:
            assert {signal.getsignal(x) for x in NUMBERS} == {signal.SIG_DFL}
            assert not list(here.iterdir())


def test_ignored_signals_stay_ignored_and_training_has_the_usual_ones():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopped_by_signals():
            signal.raise_signal(signal.SIGHUP)
            with usual_signals():
                assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
                assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
                with pytest.raises(KeyboardInterrupt):
                    signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_process_that_reads_data_ends_as_usual():
    with stopped_by_signals():
        child = os.fork()
        if not child:
            signal.raise_signal(signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
