import pytest

from itm.utils.checks import alternatives, check_choice


@pytest.mark.parametrize(
    ("choices", "text"),
    [
        (["sum"], "'sum'"),
        (["sum", "mean"], "'sum' or 'mean'"),
        (["all", "top", "mean"], "'all', 'top' or 'mean'"),
    ],
)
def test_choices_are_joined_as_in_a_sentence(choices, text):
    assert alternatives(choices) == text


@pytest.mark.parametrize("value", ["Sum", "", None, 1, True])
def test_another_value_is_refused_and_shown(value):
    with pytest.raises(ValueError) as caught:
        check_choice("reduction", value, {"sum": 0, "mean": 1})
    assert str(caught.value) == f"reduction must be 'sum' or 'mean', got {value!r}"


def test_a_choice_passes():
    check_choice("reduction", "mean", ("sum", "mean"))
