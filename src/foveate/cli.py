"""The verbs of the command line; what they do is done elsewhere.

Nothing here imports Keras before a verb that needs it has chosen the backend.
"""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import cyclopts
from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape

from foveate import __version__
from foveate.cli_data import find_rate, pack_data, plan_data, profile_data
from foveate.cli_run import (
    console,
    judge_again,
    predict_files,
    resume_and_judge,
    say,
    train_and_judge,
)
from foveate.cli_search import join_search, resume_search, start_search
from foveate.errors import ConfigError, FoveateError

app = cyclopts.App(
    name="foveate",
    version=__version__,
    help="Say what you have, get the best Keras image model that fits.",
)
errors = Console(stderr=True)

Tokens = Annotated[str, Parameter(allow_leading_hyphen=True, show=False)]

_SETTINGS_HELP = (
    "Any setting may follow as a flag: `--data.label diagnosis --recipe.epochs 20`. Lists are "
    "comma-separated. `foveate init` writes all of them, documented, to a file for `--config`."
)


def run(arguments: Sequence[str]) -> int | Path:
    """Run one command line.

    Args:
        arguments: What stands after ``foveate``.

    Returns:
        The exit code: 0, 2 for a mistake that the user can mend, 130 after Ctrl-C. Or the folder
        of a run that ran short of memory, and that a fresh process is to go on with.
    """
    warnings.showwarning = _show_warning
    try:
        outcome = app(list(arguments), exit_on_error=False, result_action="return_value")
        return outcome if isinstance(outcome, Path) else int(outcome or 0)
    except cyclopts.CycloptsError:
        return 2
    except (FoveateError, OSError) as error:
        errors.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        errors.print("Interrupted.")
        return 130


@app.command(help_epilogue=_SETTINGS_HELP, usage="Usage: foveate train DATA [OPTIONS] [SETTINGS]")
def train(
    *tokens: Tokens,
    out: Path | None = None,
    config: Path | None = None,
    plan: Path | None = None,
    resume: Path | None = None,
) -> int | Path:
    """Train on DATA (a folder, a CSV or a Parquet file), judge on its test split, and report.

    Parameters
    ----------
    out
        The run folder, new or empty; `runs/DATA-1` and so on when not given.
    config
        A TOML file of settings; flags win over it.
    plan
        A plan to follow: what `foveate plan --out` wrote, or plan.json of another run, perhaps
        edited.
    resume
        An unfinished run folder to go on with, instead of DATA; it keeps its settings.
    """
    from foveate.config.files import load_config, split_tokens

    words, settings = split_tokens(tokens)
    if resume is not None:
        if words or settings or out or config or plan:
            raise ConfigError(
                "--resume takes the run folder alone: data and settings are those of the run."
            )
        return resume_and_judge(resume)
    data = _one(words, "train", "DATA: a folder, a CSV or a Parquet file")
    return train_and_judge(data, load_config(config, settings), out, plan)


@app.command(help_epilogue=_SETTINGS_HELP, usage="Usage: foveate plan DATA [OPTIONS] [SETTINGS]")
def plan(*tokens: Tokens, out: Path | None = None, config: Path | None = None) -> None:
    """Say what training on DATA would take, and what fits into a budget; measured, not guessed.

    A run that states budget.ram or budget.gpu_memory is planned like this before it starts.

    Parameters
    ----------
    out
        The JSON file to write the plan to, for `foveate train --plan`.
    config
        A TOML file of settings; flags win over it.
    """
    words, settled = _read(tokens, config)
    plan_data(_one(words, "plan", "DATA: what train would get"), settled, out, console)
    if out is not None:
        files = [] if config is None else ["--config", str(config)]
        again = shlex.join(["foveate", "train", *tokens, *files, "--plan", str(out)])
        say(f"Written: {out}. Follow it: {again}")


@app.command
def evaluate(run: Path, /, *, split: str = "test") -> None:
    """Judge the model of RUN on one of its splits.

    Parameters
    ----------
    run
        A run folder.
    split
        train, validation or test.
    """
    judge_again(run, split)


@app.command
def predict(
    run: Path,
    /,
    *files: Path,
    out: Path = Path("predictions.csv"),
    unreadable: Literal["fail", "skip"] | None = None,
) -> None:
    """Predict what FILES show with the model of RUN.

    Parameters
    ----------
    run
        A run folder.
    files
        Images, folders of images, or one table with the columns the model was trained with.
    out
        The CSV or Parquet file to write; predicted masks go to a folder of the same name with
        `_masks`.
    unreadable
        What a file that cannot be read does: `fail` stops, `skip` says so in its row; as in
        training when not given.
    """
    if not files:
        raise ConfigError("predict needs FILES: images, folders of images, or one table.")
    predict_files(run, files, out, unreadable)


@app.command
def report(run: Path, /) -> None:
    """Write the report of RUN anew: one HTML file that needs no network.

    Parameters
    ----------
    run
        A run folder.
    """
    from foveate.report.report import write_report
    from foveate.runs import Run

    say(f"Report: {write_report(Run.open(run))}")


@app.command
def init(out: Path = Path("foveate.toml"), /) -> None:
    """Write all settings, documented, with their defaults.

    Parameters
    ----------
    out
        The TOML file to write; it must not exist.
    """
    from foveate.config.files import to_toml
    from foveate.config.settings import RunConfig

    if out.exists():
        raise ConfigError(f"init writes a new file, but {str(out)!r} exists. Name another.")
    out.write_text(to_toml(RunConfig(), comments=True))
    say(f"Written: {out}. Use it: foveate train DATA --config {out}")


@app.command(help_epilogue=_SETTINGS_HELP)
def quickstart(
    *tokens: Tokens, task: str = "classification", out: Path = Path("quickstart")
) -> int | Path:
    """Write a small real dataset to disk, train on it, judge, and report.

    Parameters
    ----------
    task
        classification: handwritten digits; segmentation: digits pasted on textures.
    out
        Folder for the dataset and the run.
    """
    from foveate.config.files import load_config, split_tokens
    from foveate.quickstart import SETTINGS, write_dataset
    from foveate.runs import next_folder

    words, settings = split_tokens(tokens)
    if words:
        raise ConfigError(f"quickstart takes no files, but got {shlex.join(words)}.")
    config = load_config(None, {**SETTINGS.get(task, {}), **settings})
    data = write_dataset(task, out / task)
    return train_and_judge(str(data), config, next_folder(out, f"{task}-run"))


@app.command(
    help_epilogue=_SETTINGS_HELP, usage="Usage: foveate pack DATA OUT [OPTIONS] [SETTINGS]"
)
def pack(
    *tokens: Tokens,
    side: int | None = None,
    quality: int = 90,
    shard_size: str = "256MiB",
    verify: bool = False,
    config: Path | None = None,
) -> None:
    """Pack DATA into tar shards with an index in the folder OUT, which train takes as DATA.

    The same command goes on with a pack that was interrupted.

    Parameters
    ----------
    side
        Store larger images as JPEG of this short side in pixels; as they are when not given.
    quality
        JPEG quality of these, 1 to 100.
    shard_size
        Size at which a shard ends.
    verify
        Compare a finished pack with its checksums instead: `foveate pack OUT --verify`.
    config
        A TOML file of settings; flags win over it.
    """
    from foveate.data import shards
    from foveate.data.repack import PackOptions, num_bytes

    words, settled = _read(tokens, config)
    if verify:
        folder = _one(words, "pack --verify", "OUT: the folder of a finished pack")
        files = shards.verify(folder)
        say(f"{files:,} files are as they were packed.")
        return
    if len(words) != 2:
        raise ConfigError(f"pack needs DATA and OUT, but got {shlex.join(words) or 'nothing'}.")
    data, out = words
    options = PackOptions(side, quality, num_bytes(shard_size))
    num_samples = pack_data(data, out, settled, options, console)
    say(f"{num_samples:,} samples packed. Use them: foveate train {shlex.quote(out)}")


@app.command(
    help_epilogue=_SETTINGS_HELP, usage="Usage: foveate profile DATA [OPTIONS] [SETTINGS]"
)
def profile(
    *tokens: Tokens,
    no_model: Annotated[bool, Parameter(negative="")] = False,
    config: Path | None = None,
) -> None:
    """Measure what limits training on DATA (disk, decoding or the model), and say what to do.

    Parameters
    ----------
    no_model
        Measure loading alone.
    config
        A TOML file of settings; flags win over it.
    """
    words, settled = _read(tokens, config)
    data = _one(words, "profile", "DATA: what train would get")
    profile_data(data, settled, not no_model, console)


@app.command(help_epilogue=_SETTINGS_HELP, usage="Usage: foveate search DATA [OPTIONS] [SETTINGS]")
def search(
    *tokens: Tokens,
    out: Path | None = None,
    config: Path | None = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    resume: Path | None = None,
    join: str | None = None,
) -> None:
    """Try settings out on DATA, trial by trial, and say which are best, and by how much.

    What is varied stands under `search.space`: `--search.space.recipe.learning_rate
    "1e-4..3e-2 log" --search.space.recipe.optimizer adamw,sgd`; without it, what usually matters.

    Parameters
    ----------
    out
        The folder of the study, new or empty; `runs/DATA-search-1` and so on when not given.
    config
        A TOML file of settings; flags win over it.
    dry_run
        Only say what would be varied.
    resume
        The folder of a study to go on with, instead of DATA; `--search.trials 40` makes more.
    join
        The folder or the database URL of a study that goes on, to work on as well.
    """
    from foveate.config.files import load_config, split_tokens

    words, settings = split_tokens(tokens)
    if join is not None:
        if words or settings or out or config or resume or dry_run:
            raise ConfigError("--join takes the study alone: data and settings are its own.")
        return join_search(join, console)
    if resume is not None:
        if words or out or config or dry_run:
            raise ConfigError("--resume takes the study's folder and settings of the search.")
        return resume_search(resume, settings, console)
    data = _one(words, "search", "DATA: what train would get")
    return start_search(data, load_config(config, settings), out, dry_run, console)


@app.command(help_epilogue=_SETTINGS_HELP, usage="Usage: foveate lr DATA [OPTIONS] [SETTINGS]")
def lr(*tokens: Tokens, out: Path = Path(), config: Path | None = None) -> None:
    """Try training on DATA with a learning rate that rises, and suggest one.

    Parameters
    ----------
    out
        The HTML file to draw the curve to, or a folder for `learning_rate.html`.
    config
        A TOML file of settings; flags win over it.
    """
    words, settled = _read(tokens, config)
    find_rate(_one(words, "lr", "DATA: what train would get"), settled, out, console)


@app.command
def doctor() -> int:
    """Say what is installed, what is missing, and how to get it."""
    from foveate.scale.doctor import examine

    return examine(console)


def _read(tokens: Sequence[str], config: Path | None) -> tuple[list[str], Any]:
    """Tell words from settings, and settle these."""
    from foveate.config.files import load_config, split_tokens

    words, settings = split_tokens(tokens)
    return words, load_config(config, settings)


def _one(words: Sequence[str], verb: str, what: str) -> str:
    if len(words) != 1:
        found = shlex.join(words) or "nothing"
        raise ConfigError(f"{verb} needs one {what}; but got {found}.")
    return words[0]


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    errors.print(f"[yellow]warning:[/] {escape(str(message))}", highlight=False, soft_wrap=True)
