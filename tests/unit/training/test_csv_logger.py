"""metrics.csv is continued by a resumed run, and damage of it is noticed."""

import warnings

import pytest

from itm.training.csv_logger import CSVLogger


def log(folder, steps, resume=False, **more):
    logger = CSVLogger(str(folder), resume=resume)
    for step in steps:
        logger.log_metrics({"train/loss": 1.5 + step, **more}, step)
        logger.save()
    return folder / "csv/metrics.csv"


def test_a_resumed_run_continues_its_curves(tmp_path):
    path = log(tmp_path, range(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log(tmp_path, range(2, 5), resume=True)
        log(tmp_path, range(5, 6), resume=True, **{"val/rsum": 300.0})  # another column
        log(tmp_path, [6], resume=True)
    rows = path.read_text().splitlines()
    assert [row.split(",")[rows[0].split(",").index("step")] for row in rows[1:]] == list("0123456")
    with pytest.warns(UserWarning, match="will be deleted"):  # a new run
        assert len(log(tmp_path, [0]).read_text().splitlines()) == 2


@pytest.mark.parametrize("bit", range(8))
def test_flipped_bits_of_the_curves_are_noticed(bit, tmp_path):
    path = log(tmp_path, range(3))
    whole = path.read_bytes()
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 1 << bit
        path.write_bytes(data)
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            try:
                assert CSVLogger(str(tmp_path), resume=True).experiment and found
                assert "metrics.csv is damaged or was edited" in str(found[0].message)
            except ValueError as error:
                assert "metrics.csv does not hold the curves of a run" in str(error)  # noqa: PT017


def test_a_kill_between_a_row_and_its_checksum_is_no_damage(tmp_path):
    path = log(tmp_path, range(3))
    with path.open("a") as file:
        file.write("3,4.5\n4,5")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(CSVLogger(str(tmp_path), resume=True).experiment.earlier) == 4
    path.with_suffix(".json").unlink()  # of an earlier version
    assert len(CSVLogger(str(tmp_path), resume=True).experiment.earlier) == 4
    path.write_bytes(b"")
    assert CSVLogger(str(tmp_path), resume=True).experiment.earlier == []
