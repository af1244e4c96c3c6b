"""The story of a plan: what the data is, what the machine does with it, what fits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from pydantic import ByteSize
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from foveate import machine
from foveate.config.settings import RunConfig
from foveate.data.manifest import Manifest, read_manifest
from foveate.errors import BudgetError, ConfigError, FoveateError, RunError
from foveate.planning.concessions import measure_what_fits
from foveate.planning.fingerprint import Fingerprint, fingerprint
from foveate.planning.ledger import fastest_of
from foveate.planning.plan import Plan, size_text
from foveate.planning.settle import settle
from foveate.planning.sizes import QUEUE_SHARE
from foveate.scale import runtime

_LEFT_TO_OTHERS = 0.1  # of the machine's memory, where no budget is stated
_WIDE = 120  # characters of a terminal in which a number and its reason fit side by side


def make_plan(data: Any, config: RunConfig) -> tuple[Manifest, Plan]:
    """Plan a run; nothing of it needs Keras in this process, which is kept to its processors.

    Args:
        data: A folder, a CSV or Parquet file, a dataframe, or a Manifest.
        config: What the user states; `budget` holds the limits, else those of the machine hold.

    Returns:
        The data, read, and the plan.

    Raises:
        BudgetError: Nothing fits, or the budget is more than there is.
        FoveateError: As `foveate.training.recipe.train`.
    """
    keep_to_processors(config)
    ram = _ram(config)
    manifest = data if isinstance(data, Manifest) else read_manifest(data, config.data)
    found = fingerprint(manifest, config)
    queue = min(int(config.loader.queue), ram // QUEUE_SHARE)
    loader = config.loader.model_copy(update={"queue": ByteSize(queue)})
    config = config.model_copy(update={"loader": loader})
    return manifest, _settle_backend(manifest, config, found, ram)


def _settle_backend(manifest: Manifest, config: RunConfig, found: Fingerprint, ram: int) -> Plan:
    """Plan on the stated backend, or on each that is installed to take the fastest.

    Raises:
        FoveateError: On none does it fit, or work; what the first one says.
    """
    own = psutil.Process().memory_info().rss
    limit = max(ram - own, 0)
    backends = _backends(config)
    plans: list[Plan] = []
    problems: dict[str, FoveateError] = {}
    for backend in backends:
        stated = config.runtime.model_copy(update={"backend": backend})
        on_it = config.model_copy(update={"runtime": stated})
        try:
            measured = measure_what_fits(manifest, on_it, limit, ram, 1 / len(backends))
            open_one = config.runtime.backend == "auto"  # which the ledger says
            plans.append(settle(config if open_one else on_it, found, measured, ram))
        except (BudgetError, ConfigError, RunError) as error:
            problems[backend] = error
    if not plans:
        raise next(iter(problems.values()))
    return fastest_of(plans, problems) if len(backends) > 1 else plans[0]


def _backends(config: RunConfig) -> Sequence[str]:
    """List what may be computed on: what is stated, what `auto` means here, or all there is."""
    if config.runtime.backend != "fastest":
        return (runtime.choose_backend(config.runtime.backend),)
    if (running := runtime.running_backend()) is not None:
        return (running,)
    return runtime.installed_backends() or (runtime.choose_backend(),)  # which says what to do


def hold_to_budget(
    data: Any, config: RunConfig, console: Console, given: Plan | str | Path | None = None
) -> tuple[Any, Plan | None]:
    """Keep this process to its processors; plan a run that states how much memory it may take.

    One that asks for the fastest backend is planned, too.

    Call it before Keras is imported.

    Args:
        data: As for `make_plan`.
        config: As for `make_plan`.
        console: Where the plan is shown.
        given: A plan to follow, or the file of one.

    Returns:
        The data, perhaps read already, and the plan, if there is one.

    Raises:
        BudgetError: The given plan takes more memory than is stated.
        FoveateError: As for `make_plan`, and `Plan.load`.
    """
    keep_to_processors(config)
    if given is not None:
        return data, _within(config, given if isinstance(given, Plan) else Plan.load(given))
    asked = config.budget.ram, config.budget.gpu_memory
    if asked == (None, None) and config.runtime.backend != "fastest":
        return data, None
    with console.status("measuring what fits"):
        manifest, plan = make_plan(data, config)
    show(plan, console)
    return manifest, plan


def _within(config: RunConfig, plan: Plan) -> Plan:
    for name, taken in (("ram", plan.peak_bytes), ("gpu_memory", plan.device_bytes)):
        stated = getattr(config.budget, name)
        if stated is not None and taken is not None and taken > stated:
            raise BudgetError(
                f"budget.{name} must be at least what the plan takes, {size_text(taken)}, but "
                f"got {size_text(stated)}. Plan anew for this budget."
            )
    return plan


def keep_to_processors(config: RunConfig) -> None:
    """Keep this process to as many processors as are stated; call it before Keras is imported.

    Raises:
        ConfigError: There are fewer, or this system cannot do it.
    """
    if config.budget.cpus is not None:
        machine.limit_cpus(config.budget.cpus)


def show(plan: Plan, console: Console) -> None:
    """Print the ledger of a plan and what follows from it: without a terminal, plain lines."""
    if console.is_terminal:
        console.print(_table(plan, is_wide=console.width >= _WIDE))
    else:
        for line in plan.ledger:
            text = f"{line.name}: {line.value} ({line.source}: {line.reason})"
            console.print(text, highlight=False, markup=False, soft_wrap=True)
    for text in plan.advice:
        console.print(text, highlight=False, soft_wrap=not console.is_terminal)


def _table(plan: Plan, is_wide: bool) -> Table:
    """Lay out a ledger; where it is not wide, the reason of a number stands below it."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("what", no_wrap=True)
    table.add_column("how much")
    if is_wide:
        table.add_column("source", style="dim")
        table.add_column("why", style="dim")
    for line in plan.ledger:
        value = Text(line.value)
        if is_wide:
            table.add_row(line.name, value, line.source, Text(line.reason))
        else:
            table.add_row(line.name, value.append(f"\n{line.source}: {line.reason}", "dim"))
    return table


def _ram(config: RunConfig) -> int:
    there = machine.memory_bytes()
    stated = config.budget.ram
    if stated is None:
        return round(there * (1 - _LEFT_TO_OTHERS))
    if stated > there:
        raise BudgetError(
            f"budget.ram must be at most what the machine has, {size_text(there)}, but got "
            f"{size_text(stated)}. State less, or leave it out."
        )
    return int(stated)
