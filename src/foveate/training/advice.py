"""What a profile means, and what to do about it, in words and with its own numbers."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from foveate.training.profile import Profile

_PARTS = {
    "read": "file to memory",
    "decode": "memory to pixels",
    "warp": "geometry and resize",
    "colour": "contrast to hue, blur, noise, erasing",
    "collate": "drawing, targets, batch arrays",
}
_KIB = 1024
_ENOUGH = 0.95  # of the best speed; beyond it more threads only cost
_WORTH = 1.1  # times as fast; less is lost in the noise


def show(profile: Profile, console: Console, data: str) -> None:
    """Print a profile as tables, and the advice.

    Args:
        profile: What was measured.
        console: Where to.
        data: What the user called the data.
    """
    console.print(_parts_table(profile), _speeds_table(profile))
    for line in advise(profile, data):
        console.print(f"- {line}", highlight=False, markup=False, soft_wrap=True)


def advise(profile: Profile, data: str) -> list[str]:
    """Say what limits training and what to do, the most important first.

    Args:
        profile: What was measured.
        data: What the user called the data.

    Returns:
        Sentences, each with the numbers that it rests on.
    """
    lines = [_bottleneck(profile), _threads(profile), _packing(profile, data), _cold(profile)]
    return [line for line in lines if line]


def _parts_table(profile: Profile) -> Table:
    times = profile.times
    table = Table(title=f"loading, one thread, {times.num_images:,} images")
    for title in ("part", "ms an image", "share"):
        table.add_column(title, justify="left" if title == "part" else "right")
    for part, share in times.shares.items():
        milliseconds = getattr(times, part)
        table.add_row(f"{part} ({_PARTS[part]})", f"{milliseconds:.3f}", f"{share:.0%}")
    table.add_row("all", f"{times.total:.3f}", "100%", end_section=True)
    table.add_row("read, as the files were found", f"{times.first_read:.3f}", "")
    return table


def _speeds_table(profile: Profile) -> Table:
    table = Table(title="speeds")
    table.add_column("what")
    table.add_column("images/s", justify="right")
    threads = _counted(profile.threads)
    table.add_row(f"reading alone, again, {threads}", f"{profile.reading:,.0f}")
    table.add_row(f"decoding alone, {threads}", f"{profile.decoding:,.0f}")
    for count, speed in profile.loading.items():
        table.add_row(f"loader, {_counted(count)}", f"{speed:,.0f}")
    for stage, speed in profile.models.items():
        table.add_row(f"model, stage {stage}", f"{speed:,.0f}")
    return table


def _bottleneck(profile: Profile) -> str:
    speed, shares = profile.speed, profile.times.shares
    loader = f"the loader gives {speed:,.0f} images/s"
    if not profile.models:
        wait = "The model was not measured. "
    else:
        stage = max(profile.models, key=profile.models.__getitem__)
        model = profile.models[stage]
        if profile.bottleneck == "model":
            return (
                f"The model is the bottleneck: it trains on {model:,.0f} images/s in the stage "
                f"{stage}, {loader} and is waited for {profile.wait_share:.0%} of the time. A "
                "smaller data.image_size or model.backbone makes training faster, faster loading "
                "does not."
            )
        wait = (
            f"Loading is the bottleneck: {loader}, the stage {stage} could train on "
            f"{model:,.0f} and waits {profile.wait_share:.0%} of the time. "
        )
    if profile.bottleneck == "disk":
        return (
            f"{wait}Most of loading, {shares['read']:.0%}, is reading files "
            f"({profile.times.file_bytes / _KIB:,.0f} KiB each): a faster disk or smaller files "
            "help."
        )
    part = profile.bottleneck
    return f"{wait}Most of loading, {shares[part]:.0%}, is {part}: {_PARTS[part]}."


def _threads(profile: Profile) -> str:
    best = max(profile.loading.values())
    fewest = min(count for count, speed in profile.loading.items() if speed >= _ENOUGH * best)
    if profile.loading[fewest] > _WORTH * profile.speed:
        return (
            f"Set loader.threads to {fewest}: {profile.loading[fewest]:,.0f} images/s instead of "
            f"{profile.speed:,.0f} with {profile.threads}."
        )
    return f"The loader needs no more than {_counted(fewest)} on this machine."


def _counted(threads: int) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}"


def _packing(profile: Profile, data: str) -> str:
    packing, packed = profile.packing, profile.packed_speed
    if packing is None or packed is None:
        return "The files are hardly larger than the model needs: a smaller side saves nothing."
    gain = packed / profile.speed
    if gain < _WORTH:
        return (
            f"Packing at a short side of {packing.side} pixels would change little: "
            f"{packed:,.0f} images/s instead of {profile.speed:,.0f}."
        )
    if profile.bottleneck == "model":
        return (
            f"Packing at a short side of {packing.side} pixels would load {gain:.1f} times as "
            "fast, but the model could not use it."
        )
    return (
        f"Pack once: foveate pack {data} OUT --side {packing.side}. Files of "
        f"{packing.file_bytes / _KIB:,.0f} KiB instead of "
        f"{profile.times.file_bytes / _KIB:,.0f} should load {packed:,.0f} images/s instead of "
        f"{profile.speed:,.0f}, going by samples that were encoded again."
    )


def _cold(profile: Profile) -> str:
    times = profile.times
    if times.first_read < max(2 * times.read, 0.1 * times.total):
        return (
            "The files were in the system's memory already, so this says nothing about the "
            "disk: the first epoch after a restart may be slower."
        )
    share = times.total / (times.total - times.read + times.first_read)
    return (
        f"Reading the files for the first time took {times.first_read:.2f} ms an image, again "
        f"{times.read:.2f}. Where they do not fit into memory, every epoch is like the first: "
        f"one thread then does {share:.0%} of what it does here."
    )
