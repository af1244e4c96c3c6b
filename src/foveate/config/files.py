"""Settings from TOML files and flags, and back to TOML.

Every problem of a file and its flags is told at once, under the key the user typed.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import ByteSize, ValidationError
from pydantic.fields import FieldInfo

from foveate.config.section import Section, ShortSection
from foveate.config.settings import RunConfig
from foveate.errors import ConfigError, nearest


def load_config(
    path: str | Path | None = None, overrides: Mapping[str, Any] | None = None
) -> RunConfig:
    """Read a run's settings from a TOML file, flags, or both.

    Args:
        path: A TOML file; defaults alone when None.
        overrides: Dotted keys to values, or to texts as on the command line:
            ``{"recipe.epochs": 3, "data.metadata": "age,sex"}``; they win over the file. In texts,
            lists are comma-separated, and ``none`` unsets what may be unset.

    Returns:
        The validated settings.

    Raises:
        ConfigError: The file cannot be read or settings are wrong; all problems are listed.
    """
    return _validated(_read_toml(Path(path)) if path is not None else {}, overrides or {}, path)


def with_settings(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """Change some settings.

    Args:
        config: All settings.
        values: Those to replace, as the overrides of `load_config`.

    Returns:
        Validated settings; those given stay as they are.

    Raises:
        ConfigError: Settings are wrong, or contradict others; all problems are listed.
    """
    return _validated(config.model_dump(), values)


def _validated(
    values: dict[str, Any], flags: Mapping[str, Any], path: str | Path | None = None
) -> RunConfig:
    for key, text in flags.items():
        whole = key if isinstance(text, Mapping) else whole_key(key)
        _place(values, whole, parse_text(whole, text))
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, path, flags)) from None


def split_tokens(tokens: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Tell words from settings; every setting takes one value.

    Args:
        tokens: Such as ``("photos", "--seed", "3", "--data.label=kind")``.

    Returns:
        The words, and the settings by key.

    Raises:
        ConfigError: A setting has no value, or is given twice.
    """
    words: list[str] = []
    settings: dict[str, str] = {}
    rest = iter(tokens)
    for word in rest:
        if not word.startswith("-"):
            words.append(word)
            continue
        key, equals, value = word.lstrip("-").partition("=")
        if not equals:
            following = next(rest, None)
            if following is None or following.startswith("--"):
                raise ConfigError(f"--{key} needs a value, but got {following or 'nothing'}.")
            value = following
        if key in settings:
            raise ConfigError(f"--{key} is given twice: {settings[key]!r} and {value!r}.")
        settings[key] = value
    return words, settings


def to_toml(config: RunConfig, comments: bool = False) -> str:
    """Write settings as TOML.

    Args:
        config: The settings.
        comments: Whether to put each field's documentation above it.

    Returns:
        TOML that `load_config` reads back to equal settings; unset values are commented out.
    """
    return "\n".join(_section_lines(config, "", comments)).strip() + "\n"


def whole_key(key: str) -> str:
    """Complete the key of a group that may be written as one of its fields alone.

    Args:
        key: Such as ``recipe.optimizer``.

    Returns:
        Such as ``recipe.optimizer.name``; any other key as it is.
    """
    section = _section(key.split("."))
    return f"{key}.{section.short}" if section and issubclass(section, ShortSection) else key


def setting_kinds(key: str) -> tuple[Any, ...]:
    """Name the types that the value of a setting may have; none where there is no such setting."""
    field = dict(setting_fields()).get(key)
    return () if field is None else tuple(_alternatives(field.annotation))


def setting_fields(
    section: type[Section] = RunConfig, prefix: str = ""
) -> Iterator[tuple[str, FieldInfo]]:
    """Iterate over all settings.

    Args:
        section: Where to start.
        prefix: Dotted path of `section`, with its final dot.

    Yields:
        Dotted key and field of every setting that is not itself a section.
    """
    for name, field in section.model_fields.items():
        kind: Any = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from setting_fields(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(
            f"A settings file must be readable, but got {str(path)!r}: {error.strerror}."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} must be valid TOML, but got: {error}.") from None


def _section(groups: Sequence[str]) -> type[Section] | None:
    """The settings class of a group; None where there is no such group."""
    section: Any = RunConfig
    for name in groups:
        field = section.model_fields.get(name)
        section = field.annotation if field is not None else None
        if not (isinstance(section, type) and issubclass(section, Section)):
            return None
    return section


def _place(values: dict[str, Any], key: str, value: Any) -> None:
    """Put a value at a dotted key; what stands for a whole group there becomes its field."""
    *groups, last = key.split(".")
    for depth, group in enumerate(groups, 1):
        inner = values.get(group, {})
        if not isinstance(inner, dict):
            field = whole_key(".".join(groups[:depth])).rpartition(".")[2]
            inner = {field: inner}
        values[group] = values = inner
    values[last] = value


def parse_text(key: str, text: Any) -> Any:
    """Turn a flag's text into what pydantic expects of that field.

    Args:
        key: A whole key.
        text: Such as ``"age,sex"`` or ``"none"``; what is no text stays as it is.

    Returns:
        A list of texts, None, or the text.
    """
    kinds = setting_kinds(key)
    if not kinds or not isinstance(text, str):
        return text
    if text.lower() == "none" and type(None) in kinds:
        return None
    if any(get_origin(kind) is tuple for kind in kinds):
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _alternatives(annotation: Any) -> Iterator[Any]:
    """Take unions and annotations apart."""
    if get_origin(annotation) in (Union, UnionType):
        for kind in get_args(annotation):
            yield from _alternatives(kind)
    elif get_origin(annotation) is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    else:
        yield annotation


def _explain(error: ValidationError, path: str | Path | None, flags: Mapping[str, Any]) -> str:
    lines: dict[str, None] = {}  # a pair of numbers may have the same problem twice
    for problem in error.errors(include_url=False):
        key = ".".join(_key_parts(problem["loc"]))
        given = [f for f in flags if f"{f}.".startswith(f"{key}.") or key.startswith(f"{f}.")]
        source = f"--{given[0]}" if given else f"{path}: {key}" if path else key
        text = _problem_text(problem, key)
        lines[f"  {source}: {text}" if source else f"  {text}"] = None
    head = f"{len(lines)} setting{'s are' if len(lines) > 1 else ' is'} wrong:"
    return "\n".join([head, *lines])


def _key_parts(location: Iterable[int | str]) -> Iterator[str]:
    for part in location:
        if isinstance(part, int):
            return
        yield part


def _problem_text(problem: Mapping[str, Any], key: str) -> str:
    if problem["type"] == "extra_forbidden":
        known = [name for name, _ in setting_fields()]
        group, dot, last = key.rpartition(".")
        inside = [name.removeprefix(group + dot) for name in known if name.startswith(group + dot)]
        hint = nearest(last, [name.partition(".")[0] for name in inside])
        if hint and group:
            hint = hint.replace("'", f"'{group}.", 1)
        return f"there is no setting {key!r}.{hint or nearest(key, known)}"
    message = problem["msg"].removeprefix("Value error, ")
    message = message.replace("Input should", "must").replace("valid string", "text")
    if problem["type"] == "missing":
        return f"needs more values, but got {problem['input']!r}."
    if problem["type"] == "value_error":
        return f"{message}."
    return f"{message}, but got {problem['input']!r}."


def _section_lines(section: Section, prefix: str, comments: bool) -> Iterator[str]:
    """Scalars of a section first, then its tables: TOML's own order."""
    nested = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section | dict):
            nested.append((name, field, value))
            continue
        if comments and field.description:
            yield f"# {' '.join(field.description.split())}"
        text = _toml_value(value)
        yield f"{name} = {text}" if text is not None else f"# {name} ="
    for name, field, value in nested:
        yield ""
        if comments and field.description:
            yield f"# {' '.join(field.description.split())}"
        yield f"[{prefix}{name}]"
        if isinstance(value, Section):
            yield from _section_lines(value, f"{prefix}{name}.", comments)
        else:
            yield from _entries(value)


def _entries(table: Mapping[str, Any]) -> Iterator[str]:
    """Lines, or the inside of an inline table: `key = value`."""
    for key, value in table.items():
        yield f"{key if key.isidentifier() else _toml_value(key)} = {_toml_value(value)}"


def _toml_value(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, Section):
        value = value.model_dump(exclude_defaults=True)
    if isinstance(value, Mapping):
        return f"{{ {', '.join(_entries(value))} }}"
    if isinstance(value, ByteSize):
        units = ("KiB", 2**10), ("MiB", 2**20), ("GiB", 2**30), ("TiB", 2**40)
        exact = [f'"{value // size}{unit}"' for unit, size in units if value % size == 0]
        return exact[-1] if exact and value else str(int(value))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        # TOML takes neither the control characters nor the delete character as they are.
        plain = (c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in escaped)
        return f'"{"".join(plain)}"'
    if isinstance(value, tuple):
        return f"[{', '.join(str(_toml_value(item)) for item in value)}]"
    return repr(value)
