import pytest

from itm.utils.checks import alternatives, check_choice, check_sizes
from itm.utils.extras import missing_package


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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"embed_dim": 0}, "model.embed_dim must be at least 1, got 0"),
        ({"joint_dims": [8, 0]}, r"model.joint_dims must be at least 1, got \[8, 0\]"),
        ({"num_gcn": -1}, "model.num_gcn must be at least 0, got -1"),
        ({"num_layers": 0}, "model.num_layers must be at least 1, got 0"),
    ],
)
def test_sizes_are_positive(arguments, said):
    with pytest.raises(ValueError, match=said):
        check_sizes(arguments, "model.")


def test_other_arguments_are_no_sizes():
    given = {"embed_dim": 8, "vocab_size": None, "num_experts": 0, "margin": -1, "dim": 0}
    check_sizes(given)


@pytest.mark.parametrize("package", ["wandb", "mlflow", "tensorboard"])
def test_a_package_that_a_logger_lacks_is_named_in_one_line(package):
    error = ModuleNotFoundError(
        f"Requirement '{package}>=0.12.10' not met. HINT: Try running `pip install -U '{package}'`"
    )
    assert missing_package(error) == f"this needs the package {package}: pip install {package}"


@pytest.mark.parametrize("value", ["32", 32.5, [64, "32"]])
def test_sizes_are_integers(value):
    with pytest.raises(ValueError, match="model.embed_dim must be an integer, got"):
        check_sizes({"embed_dim": value}, "model.")
