"""What a search may vary."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.config.files import load_config, to_toml
from foveate.config.settings import RunConfig
from foveate.errors import ConfigError
from foveate.search.space import Space
from foveate.training.stages import plan_stages

MOMENTUM = '{ low = 0.8, high = 0.99, when = { "recipe.optimizer.name" = "sgd" } }'


def config(**ranges: str) -> RunConfig:
    flags = {f"search.space.{key.replace('__', '.')}": text for key, text in ranges.items()}
    return load_config(None, flags)


def space(**ranges: str) -> Space:
    return Space(config(**ranges))


def suggestions(searched: Space, count: int = 50) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [searched.suggest(study.ask()) for _ in range(count)]


class TestRanges:
    def test_flags_and_toml_say_the_same(self, tmp_path: Any) -> None:
        path = tmp_path / "run.toml"
        path.write_text(
            """
            [search.space]
            "recipe.learning_rate" = { low = 1e-4, high = 3e-2, log = true }
            recipe.optimizer.name = ["adamw", "sgd"]
            model.dropout = "0..0.5 step 0.1"
            "recipe.optimizer.momentum" = """
            + MOMENTUM
        )
        flags = config(
            recipe__learning_rate="1e-4..3e-2 log",
            recipe__optimizer__name="adamw,sgd",
            model__dropout="0..0.5 step 0.1",
            recipe__optimizer__momentum=MOMENTUM,
        )
        assert load_config(path).search.space == flags.search.space

    def test_they_are_written_as_they_are_read(self, tmp_path: Any) -> None:
        stated = config(
            recipe__learning_rate="1e-4..3e-2 log",
            model__decoder_channels='{ choices = ["64,32,16,8,8", "16,16,8,8,8"] }',
            model__fusion='{ choices = ["film"], when = { "model.dropout" = [0.1, 0.2] } }',
        )
        path = tmp_path / "again.toml"
        path.write_text(to_toml(stated))
        assert load_config(path) == stated

    def test_a_flag_wins_over_the_file(self, tmp_path: Any) -> None:
        path = tmp_path / "run.toml"
        path.write_text('[search.space]\n"model.dropout" = "0..0.5"\n')
        flags = {"search.space.model.dropout": "0.1,0.2"}
        assert load_config(path, flags).search.space["model.dropout"].choices == (0.1, 0.2)

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("5..1", "low must be below high"),
            ("0..1 log", "log needs a low above 0"),
            ("1..", "must read like"),
            ("{ low = }", "TOML"),
            ("{ low = 1 }", "low and high, or choices"),
            ("sgd,sgd", "must differ"),
        ],
    )
    def test_a_bad_range_is_told_with_its_key(self, text: str, told: str) -> None:
        with pytest.raises(ConfigError, match=told) as caught:
            config(recipe__learning_rate=text)
        assert "--search.space.recipe.learning_rate" in str(caught.value)


class TestSpace:
    @pytest.mark.parametrize(
        ("key", "text", "told"),
        [
            ("recipe.learning_rat", "1..2", "Did you mean 'recipe.learning_rate'"),
            ("recipe.learning_rate", "-1..2", "greater than 0"),
            ("recipe.optimizer.name", "adamw,sdg", "'adamw', 'adam', 'sgd' or 'rmsprop'"),
            ("recipe.epochs", "1.5..3", "whole numbers"),
            ("recipe.epochs", "5..20 step 0.5", "a whole step"),
            ("model.backbone", "1..3", "must be a text, but got 1"),
            ("seed", "1..3", "same in all trials"),
            ("data.splits.validation", "0.1..0.3", "same in all trials"),
            ("search.trials", "1..3", "same in all trials"),
            ("budget.time", "1..3", "same in all trials"),
        ],
    )
    def test_what_cannot_be_varied_is_refused(self, key: str, text: str, told: str) -> None:
        with pytest.raises(ConfigError, match=told) as caught:
            Space(load_config(None, {f"search.space.{key}": text}))
        assert f"search.space.{key}" in str(caught.value)

    def test_all_problems_are_told_at_once(self) -> None:
        with pytest.raises(ConfigError) as caught:
            space(recipe__learning_rat="1..2", model__dropout="0..7")
        assert "recipe.learning_rat:" in str(caught.value)
        assert "model.dropout:" in str(caught.value)

    @given(low=st.floats(1e-6, 1.0), ratio=st.floats(1.01, 1e4), log=st.sampled_from(["", " log"]))
    def test_suggestions_are_settings_within_the_range(
        self, low: float, ratio: float, log: str
    ) -> None:
        searched = space(recipe__learning_rate=f"{low!r}..{low * ratio!r}{log}")
        for values in suggestions(searched, 5):
            found = searched.config(values).recipe.learning_rate
            assert low <= found <= low * ratio

    def test_logarithms_are_uniform_where_asked(self) -> None:
        found = suggestions(space(recipe__learning_rate="1e-5..1e-1 log"), 400)
        exponents = [math.log10(values["recipe.learning_rate"]) for values in found]
        # The mean of 400 uniform values in [-5, -1] has a standard deviation of 0.06.
        assert abs(sum(exponents) / 400 + 3) < 0.3

    def test_whole_numbers_keep_their_step(self) -> None:
        found = suggestions(space(recipe__epochs="2..10 step 4"))
        assert {values["recipe.epochs"] for values in found} == {2, 6, 10}

    def test_a_group_may_stand_for_its_name(self) -> None:
        found = suggestions(space(recipe__optimizer="adamw,sgd"))
        assert {values["recipe.optimizer.name"] for values in found} == {"adamw", "sgd"}

    def test_lists_are_chosen_as_on_the_command_line(self) -> None:
        searched = space(model__decoder_channels='{ choices = ["64,32,16,8,8"] }')
        values = suggestions(searched, 1)[0]
        assert searched.config(values).model.decoder_channels == (64, 32, 16, 8, 8)


class TestConditions:
    def test_a_setting_is_varied_only_where_its_condition_holds(self) -> None:
        searched = space(recipe__optimizer__momentum=MOMENTUM, recipe__optimizer__name="adamw,sgd")
        found = suggestions(searched)
        assert any("recipe.optimizer.momentum" in values for values in found)
        for values in found:
            is_sgd = values["recipe.optimizer.name"] == "sgd"
            assert ("recipe.optimizer.momentum" in values) == is_sgd

    def test_a_condition_may_name_a_setting_that_is_not_varied(self) -> None:
        assert suggestions(space(recipe__optimizer__momentum=MOMENTUM), 1) == [{}]

    def test_a_circle_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="circle"):
            space(
                model__dropout='{ choices = [0.1], when = { "model.l1" = 0.0 } }',
                model__l1='{ choices = [0.0], when = { "model.dropout" = 0.1 } }',
            )


class TestGrid:
    def test_all_combinations_come_once(self) -> None:
        searched = space(
            recipe__epochs="1..3", model__dropout="0..0.5 step 0.25", model__l1="0.0,0.1"
        )
        found = searched.grid()
        assert len(found) == len({tuple(values.items()) for values in found}) == 3 * 3 * 2
        assert {values["model.dropout"] for values in found} == {0.0, 0.25, 0.5}

    def test_conditions_leave_combinations_out(self) -> None:
        momentum = '{ choices = [0.8, 0.9], when = { "recipe.optimizer.name" = "sgd" } }'
        searched = space(recipe__optimizer__name="adamw,sgd", recipe__optimizer__momentum=momentum)
        assert len(searched.grid()) == 1 + 2

    def test_a_range_without_steps_has_no_grid(self) -> None:
        with pytest.raises(ConfigError, match="choices or a step"):
            space(model__dropout="0..0.5").grid()


class TestDefaults:
    def test_they_are_those_of_the_settings(self, tiny_config: Callable[..., Any]) -> None:
        base = tiny_config(model__dropout=0.25)
        base = base.model_copy(
            update={"search": config(model__dropout="0..0.5", recipe__epochs="1..9").search}
        )
        searched = Space(base)
        assert searched.defaults() == {"model.dropout": 0.25, "recipe.epochs": 3}
        assert searched.config(searched.defaults()) == base

    def test_one_outside_its_range_is_not_told_to_the_study(self) -> None:
        searched = space(model__dropout="0.3..0.5", recipe__learning_rate="1e-4..1e-2 log")
        assert searched.defaults_within() == {"recipe.learning_rate": 1e-3}

    def test_one_that_is_derived_is_not_either(self) -> None:
        searched = space(recipe__frozen_views="1..4")
        assert searched.defaults() == {"recipe.frozen_views": None}
        assert searched.defaults_within() == {}
        assert searched.settled() == {}

    def test_one_that_is_not_set_is_what_a_run_takes_it_for(
        self, tiny_config: Callable[..., Any]
    ) -> None:
        base = tiny_config(model__backbone="mobilenet", recipe__learning_rate=2e-3)
        ranges = config(recipe__fine_tune_learning_rate="1e-5..1e-3 log", recipe__unfreeze="0.6,1")
        searched = Space(base.model_copy(update={"search": ranges.search}))
        defaults = searched.defaults()
        assert searched.settled() == searched.defaults_within() == defaults
        assert plan_stages(searched.config(defaults)) == plan_stages(base)
        assert defaults["recipe.unfreeze"] == 1.0
        assert defaults["recipe.fine_tune_learning_rate"] == pytest.approx(4e-4)
