"""What Foveate raises on purpose: what must hold, what was found, what to do."""

from __future__ import annotations

from collections.abc import Sequence


class FoveateError(Exception):
    """Base of all errors a user can mend; the command line prints it and exits with code 2."""


class ConfigError(FoveateError, ValueError):
    """A setting is unknown, out of bounds, or contradicts another one."""


class ManifestError(FoveateError, ValueError):
    """A table, folder or split does not describe a usable dataset."""


class SampleError(FoveateError, ValueError):
    """One image or mask file cannot be used; the message names it."""


class BudgetError(FoveateError, RuntimeError):
    """The stated budget does not suffice; the message names the smallest that would."""


class RunError(FoveateError, RuntimeError):
    """A run folder is missing something, in use, or not what was expected."""


class MissingDependencyError(FoveateError, ImportError):
    """An optional package is needed; the message says how to install it."""


def listed(items: Sequence[str], shown: int = 5) -> str:
    """Join the first few of many items and say how many there are.

    Args:
        items: Texts to show, at least one.
        shown: How many to spell out.

    Returns:
        For example ``"a, b, c, d, e and 7 more"``.
    """
    text = ", ".join(items[:shown])
    return text if len(items) <= shown else f"{text} and {len(items) - shown} more"


def nearest(name: str, known: Sequence[str]) -> str:
    """Suggest the known name that a misspelt one, or one of initials, probably meant.

    Args:
        name: What the user wrote.
        known: What exists.

    Returns:
        ``" Did you mean 'label'?"`` with its leading space, or an empty string.
    """
    import difflib

    lowered = {candidate.lower(): candidate for candidate in known}
    initials = {"".join(word[:1] for word in low.split("_")): low for low in lowered if "_" in low}
    close = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.6)
    found = close[0] if close else initials.get(name.lower())
    return f" Did you mean {lowered[found]!r}?" if found else ""


def first_cause(error: BaseException) -> str:
    """Say in a sentence what an error came from, which others may have wrapped."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return str(error).split(". ")[0].rstrip(".") + "."
