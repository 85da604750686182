"""How the global batch is split over processes, devices and accumulated batches."""

import pytest

from setr_hf.errors import SetrError
from setr_hf.training.batch_size import batch_arithmetic
from setr_hf.training.options import parse_command


RECIPE = ("--recipe", "setr-pup-large-cityscapes-80k", "--dry-run")
AUTO = ("--per-device-train-batch-size", "auto")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((16, 8), (2, 1)),
        ((16, 1), (16, 1)),
        ((16, 2, 4), (4, 2)),
        ((16, 2, None, 8), (1, 8)),
        ((16, 4, 2, 2), (2, 2)),
        ((8, 8, 1), (1, 1)),
    ],
)
def test_a_global_batch_is_split_over_devices_and_accumulation(given, expected):
    assert batch_arithmetic(*given) == expected


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ((8, 6), ["6 processes", "1, 2, 4, 8"]),
        ((8, 16), ["16 processes", "1, 2, 4, 8"]),
        ((16, 2, 3), ["1 × 8", "2 × 4", "4 × 2", "8 × 1", "--global-batch-size 12"]),
        ((16, 2, 4, 4), ["= 32", "--global-batch-size 32"]),
        ((16, 1, 0), ["per device", "0"]),
        ((0, 1), ["batch", "0"]),
    ],
)
def test_a_batch_that_cannot_be_split_is_refused_with_the_possible_splits(given, named):
    with pytest.raises(SetrError) as error:
        batch_arithmetic(*given)
    assert all(text in str(error.value) for text in named)


@pytest.mark.parametrize("arguments", [[], AUTO])
def test_a_split_that_is_not_given_is_open(arguments):
    command = parse_command([*RECIPE, *arguments, "--use-cpu"])
    assert command.to_dataclasses()[1].per_device_train_batch_size == 8
    assert not {"per_device_train_batch_size", "gradient_accumulation_steps"} & command.fixed


@pytest.mark.parametrize(
    ("name", "value", "split"),
    [("per-device-train-batch-size", "4", (4, 2)), ("gradient-accumulation-steps", "4", (2, 4))],
)
def test_a_split_that_is_given_is_fixed(name, value, split):
    command = parse_command([*RECIPE, f"--{name}", value])
    options = command.options
    assert (options.per_device_train_batch_size, options.gradient_accumulation_steps) == split
    assert name.replace("-", "_") in command.fixed


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--dry-run", *AUTO], ["--global-batch-size"]),
        ([*RECIPE, *AUTO, "--gradient-accumulation-steps", "2"], ["--gradient-accumulation-steps"]),
    ],
)
def test_auto_that_cannot_be_followed_is_refused(arguments, named):
    with pytest.raises(SetrError) as error:
        parse_command(arguments)
    assert all(text in str(error.value) for text in named)
