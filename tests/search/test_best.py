"""The settings of the best trial as files."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.config.files import load_config, to_toml
from foveate.errors import ConfigError
from foveate.search.best import best_config, settings_toml

SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 2**31 - 1),
        "recipe.learning_rate": st.floats(1e-9, 1.0),
        "recipe.optimizer": st.sampled_from(["sgd", "adam"]),
        "recipe.optimizer.momentum": st.floats(0, 0.99),
        "recipe.optimizer.clip_norm": st.none() | st.floats(0.1, 10),
        "recipe.epochs": st.integers(1, 100),
        "data.tiles.balanced": st.booleans(),
        "data.metadata": st.sampled_from(["age,sex", "", "age"]),
        "model.decoder_channels": st.sampled_from(["64,32,16,8,8", "8,8"]),
        "model.backbone": st.text(st.characters(codec="utf-8"), min_size=1),
        "loader.queue": st.sampled_from(["64MiB", "1GiB"]),
    },
)


def test_the_study_and_the_best_go_together() -> None:
    config = load_config(
        None,
        {"recipe.epochs": 7, "model.dropout": 0.5, "budget.ram": "4GiB", "budget.time": "30m"},
    )
    best = best_config(config, {"model.dropout": 0.25, "recipe.optimizer": "sgd"})
    assert (best.recipe.epochs, best.model.dropout, best.recipe.optimizer.name) == (7, 0.25, "sgd")
    assert best.budget == config.budget
    assert best_config(config, {}) == config


def test_settings_that_contradict_those_of_the_study_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"must be recipe\.effective_batch_size"):
        best_config(
            load_config(None, {"recipe.effective_batch_size": 32}), {"data.batch_size": 24}
        )


@given(SETTINGS)
@settings(max_examples=40)
def test_the_file_gives_the_settings_of_the_trial(
    tmp_path_factory: pytest.TempPathFactory, stated: dict[str, Any]
) -> None:
    best = best_config(load_config(None, {"recipe.epochs": 3}), stated)
    path = tmp_path_factory.mktemp("best") / "best.toml"
    path.write_text(to_toml(best), encoding="utf-8")
    assert load_config(path) == best == load_config(None, {"recipe.epochs": 3, **stated})


@given(SETTINGS)
@settings(max_examples=40)
def test_what_is_shown_can_be_copied(
    tmp_path_factory: pytest.TempPathFactory, stated: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("best") / "shown.toml"
    path.write_text(settings_toml(stated), encoding="utf-8", newline="\n")
    assert load_config(path) == load_config(None, stated)


def test_what_is_shown_is_a_table_a_section() -> None:
    stated = {"recipe.epochs": 3, "model.dropout": 0.5, "seed": 1, "recipe.loss": "focal"}
    tables = ["seed = 1", "[recipe]\nepochs = 3", "[model]\ndropout = 0.5"]
    assert settings_toml(stated) == "\n\n".join([*tables, '[recipe.loss]\nname = "focal"'])
    assert settings_toml({"recipe.epochs": None}) == "[recipe]\n# epochs ="
    assert settings_toml({}) == ""
