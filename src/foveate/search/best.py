"""The settings of the best trial, for the runs that follow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from foveate.config.files import parse_text, whole_key, with_settings
from foveate.config.search import SearchConfig
from foveate.config.settings import RunConfig


def best_config(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """Put the settings of a trial into those of its study.

    Args:
        config: What all trials share.
        settings: Config key to value.

    Returns:
        Settings for a run that is like the trial.

    Raises:
        ConfigError: They do not go together.
    """
    return with_settings(config.model_copy(update={"search": SearchConfig()}), settings)


def settings_toml(settings: Mapping[str, Any]) -> str:
    """Write the settings of a trial as a part of a TOML file, to be read and copied.

    Args:
        settings: Config key to value.

    Returns:
        TOML, a table a section; what is unset is commented out.
    """
    sections: dict[str, list[str]] = {}
    for key, value in settings.items():
        section, _, name = whole_key(key).rpartition(".")
        parsed = parse_text(whole_key(key), value)
        # JSON's numbers, texts, lists and truth values are TOML's, too, save for one character.
        text = json.dumps(parsed, ensure_ascii=False).replace("\x7f", "\\u007f")
        line = f"# {name} =" if parsed is None else f"{name} = {text}"
        sections.setdefault(section, []).append(line)
    # A key without a section stands before all tables, or it would belong to one.
    tables = sorted(sections.items(), key=lambda table: bool(table[0]))
    return "\n\n".join(
        "\n".join([*([f"[{name}]"] if name else []), *lines]) for name, lines in tables
    )
