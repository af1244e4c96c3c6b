from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from foveate.config.files import load_config, setting_fields, to_toml
from foveate.config.settings import RunConfig
from foveate.errors import ConfigError


def test_names_that_users_type_exist() -> None:
    data = "image label mask metadata group split image_size batch_size"
    names = {f"data.{name}" for name in data.split()}
    names |= {"augment.preset", "model.backbone", "model.weights", "seed"}
    names |= {"recipe.learning_rate", "recipe.epochs", "recipe.fine_tune_epochs"}
    assert names <= {key for key, _ in setting_fields()}


def test_every_setting_is_documented() -> None:
    assert [key for key, field in setting_fields() if not field.description] == []


def test_defaults_survive_toml(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    for comments in (False, True):
        path.write_text(to_toml(RunConfig(), comments=comments))
        assert load_config(path) == RunConfig()


@example(label="\x00\x1f\x7f\x80\u2028", columns=['"\\'], rate=1.0, size=(1, 1), queue=1)
@given(
    label=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1),
    columns=st.lists(st.text("ab\"\\,' \n", min_size=1), max_size=3),
    rate=st.floats(1e-9, 10.0),
    size=st.tuples(st.integers(1, 4000), st.integers(1, 4000)),
    queue=st.integers(1, 2**45),
)
def test_any_settings_survive_toml(
    tmp_path_factory: pytest.TempPathFactory,
    label: str,
    columns: list[str],
    rate: float,
    size: tuple[int, int],
    queue: int,
) -> None:
    config = RunConfig.model_validate(
        {
            "data": {"label": label, "metadata": columns, "image_size": size},
            "recipe": {"learning_rate": rate},
            "loader": {"queue": queue},
        }
    )
    path = tmp_path_factory.mktemp("toml") / "run.toml"
    path.write_text(to_toml(config), encoding="utf-8")
    assert load_config(path) == config


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("seed = 1\n[recipe]\nepochs = 7\noptimizer = 'sgd'\n")
    config = load_config(path, {"recipe.epochs": "3", "recipe.optimizer.momentum": "0.5"})
    assert (config.seed, config.recipe.epochs) == (1, 3)
    assert (config.recipe.optimizer.name, config.recipe.optimizer.momentum) == ("sgd", 0.5)


def test_flags_are_read_by_type() -> None:
    config = load_config(
        None,
        {
            "data.metadata": "age, sex",
            "data.image_size": "64",
            "loader.queue": "1.5GiB",
            "recipe.schedule": "one_cycle",
            "recipe.optimizer.clip_norm": "none",
        },
    )
    assert config.data.metadata == ("age", "sex")
    assert config.data.image_size == (64, 64)
    assert config.loader.queue == 3 * 2**29
    assert config.recipe.schedule.name == "one_cycle"
    assert load_config(None, {"data.image_size": "48,64"}).data.image_size == (48, 64)


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[recipe]\nlearning_rat = 0.1\nepochs = -3\n")
    with pytest.raises(ConfigError) as told:
        load_config(path, {"data.batch_size": "many", "model.drop": "0.1"})
    text = str(told.value)
    assert "4 settings are wrong" in text
    assert "'recipe.learning_rate'" in text
    assert "greater than 0, but got -3" in text
    assert "--data.batch_size" in text
    assert "'many'" in text
    assert "'model.dropout'" in text
    assert str(path) in text


def test_an_unknown_section_names_the_nearest_key() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'seed'"):
        load_config(None, {"sead": "1"})
    with pytest.raises(ConfigError, match="Did you mean 'model'"):
        load_config(None, {"modl.backbone": "resnet50"})
    with pytest.raises(ConfigError, match=r"Did you mean 'recipe\.learning_rate'"):
        load_config(None, {"recipe.lr": "1e-3"})


def test_a_problem_of_both_numbers_of_a_pair_is_told_once() -> None:
    with pytest.raises(ConfigError) as told:
        load_config(None, {"data.image_size": "0"})
    assert str(told.value).count("must be greater than 0") == 1
    assert str(told.value).startswith("1 setting is wrong")
    with pytest.raises(ConfigError, match=r"1 setting is wrong:\n.*'auto', 'float32'"):
        load_config(None, {"recipe.precision": "foo"})
    with pytest.raises(ConfigError, match="needs more values, but got"):
        load_config(None, {"data.decode.range_16bit": "5"})


def test_a_file_of_windows_notepad(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(b'\xef\xbb\xbf[data]\r\nlabel = "kind"\r\n')
    assert load_config(path).data.label == "kind"


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    with pytest.raises(ConfigError, match="No such file"):
        load_config(path)
    path.write_text("[recipe\n")
    with pytest.raises(ConfigError, match="valid TOML"):
        load_config(path)


def test_contradicting_values_are_refused() -> None:
    with pytest.raises(ConfigError, match="below 1"):
        load_config(None, {"data.splits.validation": "0.6", "data.splits.test": "0.5"})
    with pytest.raises(ConfigError, match="higher white"):
        load_config(None, {"data.decode.range_16bit": "5,5"})
