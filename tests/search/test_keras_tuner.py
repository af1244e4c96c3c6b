"""Keras Tuner's own tuners on the runs of a search."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import keras_tuner
import pytest
from hypothesis import given
from hypothesis import strategies as st

import foveate
from foveate.config.files import load_config, to_toml
from foveate.config.settings import RunConfig
from foveate.data.loader import BatchLoader
from foveate.errors import ConfigError, MissingDependencyError
from foveate.search.hypermodel import RunHyperModel, SearchError, epochs_by_stage
from foveate.search.hyperparameters import HyperSpace
from foveate.search.keras_tuner import hypermodel
from foveate.search.look import facts_of
from foveate.search.space import Space
from foveate.search.usual import usual_space
from foveate.training import rate_finder
from foveate.training.prepare import prepare
from foveate.training.stages import Stage

pytestmark = [
    # What Keras Tuner calls is deprecated in Python, though not gone.
    pytest.mark.filterwarnings(r"ignore:(currentThread|getName)\(\) is deprecated"),
    # Its Gaussian process knows but a trial or two here.
    pytest.mark.filterwarnings("ignore:The optimal value found for dimension"),
]

RATES = "1e-4..1e-2 log"
MOMENTUM = '{ low = 0.8, high = 0.99, when = { "recipe.optimizer.name" = "sgd" } }'


def plain(input_shape: tuple[int, int, int]) -> keras.Model:
    """A backbone that takes TensorFlow little time to compile."""
    inputs = keras.Input(input_shape)
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(inputs / 255)
    return keras.Model(inputs, x, name="plain")


@pytest.fixture(scope="module")
def small(tiny_config: Callable[..., RunConfig]) -> Callable[..., RunConfig]:
    """Makes settings of a run of a second, whose space is the given one."""
    settings = {
        "model__backbone": f"{__name__}:plain",
        "data__image_size": 8,
        "data__batch_size": 40,
        "recipe__epochs": 2,
    }
    return lambda **flags: tiny_config(**{**settings, **flags})


@pytest.fixture(scope="module")
def runs(small: Callable[..., RunConfig], digit_folders: Path) -> RunHyperModel:
    config = small(
        search__space__recipe__learning_rate=RATES,
        search__space__recipe__optimizer__name="adamw,sgd",
        search__space__recipe__optimizer__momentum=MOMENTUM,
        search__space__model__dropout="0..0.5 step 0.1",
    )
    return hypermodel(config, digit_folders)


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What any model was fitted on: the arguments of `fit`."""
    seen = []
    fit = keras.Model.fit

    def spy(self: Any, *args: Any, **options: Any) -> Any:
        seen.append((*args, options))
        return fit(self, *args, **options)

    monkeypatch.setattr(keras.Model, "fit", spy)
    return seen


TUNERS = {
    "RandomSearch": {"max_trials": 2},
    "BayesianOptimization": {"max_trials": 2, "num_initial_points": 1},
    "Hyperband": {"max_epochs": 2, "factor": 2},
    "GridSearch": {"max_trials": 2},
}


@pytest.mark.parametrize("name", TUNERS)
def test_a_tuner_runs_to_the_end(
    name: str, runs: RunHyperModel, fitted: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    tuner = getattr(keras_tuner, name)(
        runs, runs.objective, seed=0, directory=tmp_path, **TUNERS[name]
    )
    tuner.search(verbose=0)
    trials = list(tuner.oracle.trials.values())
    assert {trial.status for trial in trials} == {"COMPLETED"}
    assert len(trials) == TUNERS[name].get("max_trials", 5)  # two, the better one on, two more
    assert len(fitted) == len(trials)
    for loader, options in fitted:
        assert isinstance(loader, BatchLoader)
        assert isinstance(options["validation_data"], BatchLoader)
    for trial in trials:
        config, values = runs.config(trial.hyperparameters), trial.hyperparameters.values
        assert 1e-4 <= config.recipe.learning_rate <= 1e-2
        assert config.model.dropout in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
        assert values["recipe.learning_rate"] == config.recipe.learning_rate
        is_sgd = config.recipe.optimizer.name == "sgd"
        assert ("recipe.optimizer.momentum" in values) == is_sgd
        (tmp_path / "best.toml").write_text(to_toml(config))
        assert load_config(tmp_path / "best.toml") == config
    if name == "Hyperband":
        assert [one["epochs"] - one["initial_epoch"] for _, one in fitted] == [1, 1, 1, 2, 2]


def test_the_best_model_has_the_best_score(
    small: Callable[..., RunConfig], digit_folders: Path, tmp_path: Path
) -> None:
    """A trial that diverges fails for itself; the default settings are the first of a grid."""
    config = small(search__space__recipe__learning_rate="0.01,1e30", recipe__learning_rate=0.01)
    runs = hypermodel(config, digit_folders)
    tuner = keras_tuner.GridSearch(runs, runs.objective, directory=tmp_path)
    tuner.search(verbose=0)
    best, worst = tuner.oracle.trials.values()
    assert (best.status, worst.status) == ("COMPLETED", "FAILED")
    assert "Training must keep the loss finite" in worst.message
    assert runs.config(tuner.get_best_hyperparameters()[0]) == config
    (model,) = tuner.get_best_models()
    with closing(prepare(digit_folders, config).loader("validation", config)) as loader:
        found = model.evaluate(loader, verbose=0, return_dict=True)
    assert found["accuracy"] == pytest.approx(best.score)


@pytest.fixture(scope="module")
def staged(
    small: Callable[..., RunConfig],
    runs: RunHyperModel,
    tmp_path_factory: pytest.TempPathFactory,
) -> RunConfig:
    """Settings of a run of two stages, on stored weights."""
    path = tmp_path_factory.mktemp("weights") / "model.keras"
    runs.build(keras_tuner.HyperParameters()).save(path)
    return small(
        model__weights=path,
        recipe__frozen_views=0,
        recipe__epochs=2,
        recipe__fine_tune_epochs=1,
        search__space__model__dropout="0.2,0.5",
    )


def test_stages_are_those_of_a_run(staged: RunConfig, digit_folders: Path, tmp_path: Path) -> None:
    runs, hp = hypermodel(staged, digit_folders), keras_tuner.HyperParameters()
    told = runs.fit(hp, runs.build(hp), verbose=0).history
    history = foveate.train(digit_folders, staged, tmp_path / "run", progress=False).history()
    assert [record["stage"] for record in history] == ["frozen", "frozen", "fine_tune"]
    for name in ("loss", "val_loss", "val_accuracy"):
        assert told[name] == [record[name] for record in history]
    again = runs.fit(hp, runs.build(hp), epochs=1, verbose=0).history
    assert again["loss"] != told["loss"][:1]  # another seed


def test_rounds_go_through_the_rates_of_a_run(runs: RunHyperModel) -> None:
    hp = keras_tuner.HyperParameters()
    model = runs.build(hp)
    whole: list[float] = []
    parts: list[float] = []
    runs.fit(hp, model, callbacks=[rates(model, whole)], verbose=0)
    runs.fit(hp, model, callbacks=[rates(model, parts)], epochs=1, verbose=0)
    runs.fit(hp, model, callbacks=[rates(model, parts)], initial_epoch=1, epochs=2, verbose=0)
    assert parts == whole
    assert len(set(whole)) == len(whole)


def rates(model: keras.Model, seen: list[float]) -> keras.callbacks.Callback:
    """Notes the rate of each batch."""
    return keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(float(model.optimizer.learning_rate))
    )


@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=3),
    st.integers(0, 30),
    st.none() | st.integers(0, 70),
)
def test_each_epoch_belongs_to_one_stage(lengths: list[int], first: int, last: int | None) -> None:
    stages = [Stage(str(number), epochs, 1.0, 1.0) for number, epochs in enumerate(lengths)]
    parts = list(epochs_by_stage(stages, first, last))
    total = sum(lengths)
    end = total if last is None else last
    assert [epoch for *_, trained in parts for epoch in trained] == list(range(first, end))
    for stage, whole, trained in parts:
        number = int(stage.name)
        assert whole.start == sum(lengths[:number])
        is_last = number == len(lengths) - 1
        assert whole.stop == (max(total, end) if is_last else sum(lengths[: number + 1]))
        assert set(trained) <= set(whole)


def test_the_usual_space_lies_around_a_range_test(
    small: Callable[..., RunConfig], digit_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_finder, "find_rate", lambda *_: SimpleNamespace(suggestion=0.03))
    config, hp = small(), keras_tuner.HyperParameters()
    hypermodel(config, digit_folders).build(hp)
    facts = facts_of(prepare(digit_folders, config), config)
    assert {one.name for one in hp.space} == set(usual_space(config, facts))
    (rate,) = (one for one in hp.space if one.name == "recipe.learning_rate")
    assert (rate.min_value, rate.max_value) == pytest.approx((0.003, 0.3))
    assert rate.sampling == "log"
    adam = usual_space(small(recipe__optimizer="adam"), facts)
    assert set(usual_space(config, facts)) - set(adam) == {"recipe.optimizer.weight_decay"}


def test_masks(mask_folders: Path, tiny_config: Callable[..., RunConfig]) -> None:
    config = tiny_config(
        data__image_size=16, search__space__recipe__loss__name="cross_entropy,dice"
    )
    runs = hypermodel(config, mask_folders)
    model = runs.build(keras_tuner.HyperParameters())
    assert model.output_shape == (None, 16, 16, 2)
    (measured,) = prepare(mask_folders, config).task.metrics()
    assert runs.objective.name == f"val_{measured.name}"
    assert runs.objective.direction == "max"


class TestSpace:
    """Ranges and conditions in the words of Keras Tuner."""

    def test_values_are_those_of_the_range(self) -> None:
        searched = space(
            recipe__learning_rate=RATES,
            recipe__loss__label_smoothing="0..0.3",
            recipe__epochs="3..9 step 3",
            data__batch_size="8..64 log",
            model__dropout="0..0.5 step 0.1",
            model__pooling="average,max",
            data__tiles__balanced="true,false",
            loader__repeat="1,2",
            recipe__unfreeze="0.5,1",
        )
        chosen = samples(searched)
        values = {key: {one[key] for one in chosen} for key in searched.ranges}
        assert values["recipe.epochs"] == {3, 6, 9}
        assert values["model.dropout"] == {0.0, 0.1, 0.2, 0.3, 0.4, 0.5}
        assert values["model.pooling"] == {"average", "max"}
        assert values["data.tiles.balanced"] == {True, False}
        assert values["loader.repeat"] == {1, 2}
        assert values["recipe.unfreeze"] == {0.5, 1.0}
        assert all(isinstance(one, int) and 8 <= one <= 64 for one in values["data.batch_size"])
        assert all(0 <= one <= 0.3 for one in values["recipe.loss.label_smoothing"])
        rates = sorted(values["recipe.learning_rate"])
        assert rates[0] >= 1e-4
        assert rates[-1] <= 1e-2
        assert rates[len(rates) // 2] == pytest.approx(1e-3, rel=0.9)  # orders are as likely
        for one in chosen:
            searched.config(one)

    def test_choices_of_several_kinds(self) -> None:
        """Keras Tuner wants them of one: they are settings nevertheless."""
        searched = space(recipe__optimizer__clip_norm="{ choices = [1, 0.5, '2'] }")
        assert {searched.config(one).recipe.optimizer.clip_norm for one in samples(searched)} == {
            1.0,
            0.5,
            2.0,
        }
        alone = space(data__tiles__balanced="false")
        assert {alone.config(one).data.tiles.balanced for one in samples(alone)} == {False}

    def test_defaults_are_the_settings_to_beat(self) -> None:
        searched = space(
            recipe__learning_rate=RATES,
            model__dropout="0..0.5 step 0.1",
            model__pooling="max,average",
            data__tiles__balanced="true,false",
            recipe__optimizer__weight_decay="1e-3,1e-2",
        )
        chosen = HyperSpace(searched).choose(keras_tuner.HyperParameters())
        weight_decay = chosen.pop("recipe.optimizer.weight_decay")
        assert chosen == searched.defaults_within()
        assert weight_decay == 1e-3  # the default lies not in the range

    def test_conditions(self) -> None:
        searched = space(
            recipe__schedule__name="cosine,step,plateau",
            recipe__schedule__factor=(
                "{ low = 0.1, high = 0.9, "
                'when = { "recipe.schedule.name" = ["step", "plateau"] } }'
            ),
            recipe__schedule__cycles=(
                '{ low = 1, high = 5, when = { "recipe.schedule.factor" = 0.5 } }'
            ),
            recipe__loss__gamma='{ low = 1, high = 2, when = { "recipe.loss.name" = "focal" } }',
            model__l2='{ low = 0.1, high = 0.2, when = { "model.dropout" = 0.2 } }',
        )
        for one in samples(searched):
            assert ("recipe.schedule.factor" in one) == (one["recipe.schedule.name"] != "cosine")
            assert "recipe.loss.gamma" not in one  # the loss is another, and not varied
            assert "model.l2" in one
        hp = keras_tuner.HyperParameters()
        hp.values = {"recipe.schedule.name": "step", "recipe.schedule.factor": 0.5}
        assert "recipe.schedule.cycles" in HyperSpace(searched).choose(hp)

    def test_two_conditions_are_refused(self) -> None:
        searched = space(
            model__dropout="0,0.5",
            model__pooling="average,max",
            model__l2=(
                "{ low = 0.1, high = 1.0, "
                'when = { "model.dropout" = 0, "model.pooling" = "max" } }'
            ),
        )
        with pytest.raises(ConfigError, match=r"depend on one other .* search.space.model.l2"):
            HyperSpace(searched)


def space(**ranges: str) -> Space:
    flags = {f"search.space.{key.replace('__', '.')}": text for key, text in ranges.items()}
    return Space(load_config(None, flags))


def samples(searched: Space, count: int = 60) -> list[dict[str, Any]]:
    """What a tuner would draw at random."""
    hp, choices = keras_tuner.HyperParameters(), HyperSpace(searched)
    choices.choose(hp)
    chosen = []
    for seed in range(count):
        drawn = hp.copy()
        for number, one in enumerate(drawn.space):
            drawn.values[one.name] = one.random_sample(100 * seed + number)
        drawn.ensure_active_values()
        chosen.append(choices.choose(drawn))
    return chosen


class TestRefusals:
    @pytest.mark.parametrize(
        ("flags", "named"),
        [
            ({"budget.time": "1h", "budget.ram": "4GiB"}, "budget.ram, budget.time"),
            ({"recipe.frozen_views": "2"}, "recipe.frozen_views"),
            ({"search.space.recipe.frozen_views": "0,1"}, "search.space.recipe.frozen_views"),
            ({"recipe.image_sizes": "2"}, "recipe.image_sizes"),
            ({"data.splits.validation": "0"}, "the validation split, but got none"),
            ({"search.space.model.drop": "0..0.5"}, "Did you mean 'model.dropout'"),
            ({"search.space.seed": "1,2"}, "must be the same in all trials"),
        ],
    )
    def test_settings(self, flags: dict[str, str], named: str, digit_folders: Path) -> None:
        with pytest.raises(ConfigError, match=named):
            hypermodel(load_config(None, {"model.backbone": "simple_cnn", **flags}), digit_folders)

    def test_what_is_settled_already(self, runs: RunHyperModel, tmp_path: Path) -> None:
        """It ends the search at once, not trial by trial."""
        tuner = keras_tuner.RandomSearch(runs, runs.objective, max_trials=3, directory=tmp_path)
        with pytest.raises(SearchError, match="but got data, batch_size"):
            tuner.search([1, 2, 3], batch_size=4, verbose=0)

    def test_no_epochs(self, runs: RunHyperModel) -> None:
        hp = keras_tuner.HyperParameters()
        with pytest.raises(SearchError, match="initial_epoch=2 and epochs=2"):
            runs.fit(hp, runs.build(hp), initial_epoch=2, epochs=2)

    @pytest.mark.parametrize(
        ("module", "name"), [("keras_tuner", "Keras Tuner"), ("tensorboard", "TensorBoard")]
    )
    def test_missing_package(
        self, module: str, name: str, digit_folders: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MissingDependencyError, match=rf'needs {name}\. .*keras-tuner\]"'):
            hypermodel(RunConfig(), digit_folders)
