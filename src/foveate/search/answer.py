"""What a search ends with: the best settings, a report, and if asked for a last run."""

from __future__ import annotations

import shlex

from rich.console import Console

from foveate.config.files import to_toml, with_settings
from foveate.config.recipe import StoppingConfig
from foveate.config.settings import RunConfig
from foveate.disk import write_atomically
from foveate.errors import FoveateError, RunError
from foveate.report.report import write_report
from foveate.runs import Run
from foveate.search.best import best_config
from foveate.search.narrator import show_answer
from foveate.search.outcome import read_study
from foveate.search.process import Child
from foveate.search.proxy import standing
from foveate.search.report import write_search_report
from foveate.search.study import StudyFolder


def conclude(folder: StudyFolder, console: Console) -> None:
    """Write what was found, and say it in short.

    Args:
        folder: The study's.
        console: Where to say it.

    Raises:
        RunError: No trial has succeeded; the report says why.
    """
    study, config = folder.load(), folder.config()
    best = read_study(study).best
    notes = []
    if config.search.proxy != "none":
        notes.append(standing(study).sentence(config.search.proxy))
    if best is not None:
        chosen = best_config(config, best.settings)
        write_atomically(folder.best_path, to_toml(chosen))
        if config.search.retrain:
            with console.status("training the best settings on train and validation"):
                notes.append(_retrain(folder, chosen))
    study.set_user_attr("notes", notes)
    record = read_study(study)
    runs = {one.folder for one in (best, record.baseline) if one and one.score is not None}
    for run in filter(None, runs):
        write_report(Run(folder.path / run))
    report = write_search_report(folder.path, record)
    if best is None:
        reasons = [f" One of them: {one.reason}" for one in record.trials if one.reason]
        raise RunError(
            f"No trial has succeeded; the reasons stand in {report}.{''.join(reasons[-1:])}"
        )
    show_answer(record, notes, console)
    again = f"foveate train DATA --config {shlex.quote(str(folder.best_path))}"
    say = f"Study:  {shlex.quote(str(folder.path))}\nReport: {report}\nTrain:  {again}"
    console.print(say, highlight=False, markup=False, soft_wrap=True)


def _retrain(folder: StudyFolder, config: RunConfig) -> str:
    """Train on all but the test split, judge on that, and say what came of it."""
    place = folder.path / "retrained"
    # Nothing is held out to choose an epoch or to stop by: it goes on to its end.
    none = {"data.splits.validation": 0.0, "data.splits.test": 0.0}
    config = with_settings(config, {**none, "recipe.stopping": StoppingConfig().model_dump()})
    text = to_toml(config)
    if (before := place / "config.toml").exists() and before.read_text() != text:
        Run(place).discard()  # other settings were the best then
    place.mkdir(exist_ok=True)
    write_atomically(before, text)
    child = Child("retrain", place)
    try:
        found = child.wait()
    except (FoveateError, RuntimeError, OSError) as error:
        return (  # the trials have their answer all the same
            "The best settings could not be trained on train and validation together; see "
            f"{child.log_path}. The reason: {error}"
        )
    where = f"its run is {place / 'run'}"
    if "scores" not in found:
        return f"The best settings were trained on all samples; there is no test split; {where}."
    scores = ", ".join(f"{name} {value:.4f}" for name, value in found["scores"].items())
    return (
        "The best settings, trained on train and validation together, reached on the test split: "
        f"{scores}; {where}."
    )
