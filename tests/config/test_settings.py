"""What the settings mean together."""

import pytest

from foveate.config.files import load_config
from foveate.config.settings import RunConfig


class TestBatchSizes:
    @pytest.mark.parametrize(
        ("batch", "steps", "whole", "expected"),
        [
            (None, None, None, (32, 1)),
            (16, None, None, (16, 1)),
            (None, 4, None, (8, 4)),
            (16, 4, None, (16, 4)),
            (None, None, 64, (64, 1)),
            (16, None, 64, (16, 4)),
            (None, 2, 64, (32, 2)),
            (16, 4, 64, (16, 4)),
            (None, 100, None, (1, 100)),
        ],
    )
    def test_what_is_left_out_follows(
        self, batch: int, steps: int, whole: int, expected: tuple[int, int]
    ) -> None:
        config = RunConfig.model_validate(
            {
                "data": {"batch_size": batch},
                "recipe": {"gradient_accumulation_steps": steps, "effective_batch_size": whole},
            }
        )
        assert (config.batch_size, config.gradient_accumulation_steps) == expected
        assert config.effective_batch_size == expected[0] * expected[1]

    @pytest.mark.parametrize(("batch", "steps"), [(5, None), (None, 5), (16, 4), (4, 4)])
    def test_a_step_is_whole_batches(self, batch: int, steps: int) -> None:
        with pytest.raises(ValueError, match="effective_batch_size, but got"):
            RunConfig.model_validate(
                {
                    "data": {"batch_size": batch},
                    "recipe": {"gradient_accumulation_steps": steps, "effective_batch_size": 32},
                }
            )


@pytest.mark.parametrize(
    ("flags", "num_bytes"),
    [
        ({}, 4 * 1024**3),
        ({"budget.disk": "3GiB"}, 1024**3),
        ({"budget.disk": "90GiB"}, 4 * 1024**3),
        ({"budget.disk": "3GiB", "loader.cache": "2GiB"}, 2 * 1024**3),
    ],
)
def test_a_cache_takes_a_part_of_a_stated_disk(flags: dict[str, str], num_bytes: int) -> None:
    assert load_config(None, flags).cache_bytes == num_bytes
