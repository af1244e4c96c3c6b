"""Which rows train, which choose the best epoch, which judge: stratified, grouped splits."""

from __future__ import annotations

import numpy as np
import polars as pl

from foveate.config.settings import SplitConfig
from foveate.data.manifest import Manifest
from foveate.data.split_checks import (
    Codes,
    Floats,
    refuse_divided,
    refuse_empty,
    warn_single,
    warn_taken,
    warn_untrained,
)

_EPSILON = 1e-9  # 30 * 0.1 is 3.0000000000000004: rounding errors must not count as remainders


def assign_splits(
    manifest: Manifest, config: SplitConfig, seed: int, strata: Codes | None = None
) -> Manifest:
    """Give every row a split, keeping what the data gives.

    A split that the data gives is left as it is. The others are carved at their configured share
    out of the rows without a split or, if all rows have one, out of the given train rows; what
    is left of these trains. Shares are of the rows so divided.

    Without groups, each class gives each split its share to within one row, and the totals follow
    as closely. With groups, whole groups go where the class counts come closest to the shares;
    the rows of one image are always kept together, as if they were a group.
    Either way every class has a row in train, if any of its rows is divided.

    Args:
        manifest: The samples; its `split` column, if any, holds the given splits.
        config: Shares of the splits that are not given.
        seed: Decides between equals; the same manifest and seed give the same splits.
        strata: Integers of shape (rows,), equal for rows to spread alike over the splits; the
            class labels when not given.

    Returns:
        The same rows, each with a split.

    Raises:
        ManifestError: If a group lies in two given splits, or a split would be empty.
    """
    given = _given(manifest)
    groups = _group_codes(manifest)
    if groups is not None:
        refuse_divided(manifest, given, groups)
        given = _follow(given, groups)
    shares = np.array([0.0, config.validation, config.test])
    shares[[split for split in (1, 2) if (given == split).any()]] = 0.0
    shares[0] = 1.0 - shares.sum()
    pool = np.flatnonzero(given < 0)
    if not pool.size:
        pool = np.flatnonzero(given == 0)
        warn_taken(manifest, shares)
    kinds = (_strata(manifest) if strata is None else strata)[pool]
    rng = np.random.default_rng(seed)
    codes = given.copy()
    if groups is None:
        codes[pool] = _by_class(kinds, shares, rng)
    else:
        codes[pool] = _by_group(kinds, groups[pool], shares, rng)
    if strata is None:
        warn_single(manifest, kinds, None if groups is None else groups[pool])
        warn_untrained(manifest, codes)
    refuse_empty(manifest, codes, shares, groups)
    return manifest.with_splits(codes)


def _given(manifest: Manifest) -> Codes:
    """Codes of the given splits, shape (rows,); -1 where there is none."""
    if "split" not in manifest.table.columns:
        return np.full(manifest.num_samples, -1)
    codes = manifest.table["split"].to_physical().cast(pl.Int64).fill_null(-1)
    return codes.to_numpy().copy()


def _strata(manifest: Manifest) -> Codes:
    if not manifest.class_names:
        return np.zeros(manifest.num_samples, np.int64)
    return manifest.table["label"].to_physical().cast(pl.Int64).to_numpy()


def _group_codes(manifest: Manifest) -> Codes | None:
    """Number what must not be divided, shape (rows,): groups, and the rows of one image.

    Groups that share an image become one. None where every row may go its own way.
    """
    table = manifest.table
    is_repeated = bool(table["image"].is_duplicated().any())
    if "group" not in table.columns:
        return _ranks(table["image"]) if is_repeated else None
    groups = _ranks(table["group"])
    if not is_repeated:
        return groups
    from scipy.sparse import coo_array  # 15 MiB that most runs need not
    from scipy.sparse.csgraph import connected_components

    images, width = _ranks(table["image"]), groups.max() + 1
    pairs = np.unique(images * width + groups)
    ends = pairs % width, pairs // width + width
    links = coo_array((np.ones(pairs.size), ends), shape=(ends[1][-1] + 1,) * 2)
    codes: Codes = connected_components(links, directed=False)[1][groups].astype(np.int64)
    return codes


def _ranks(column: pl.Series) -> Codes:
    """Number equal values alike, in the order of the values, from 0."""
    # `rank` sorts all rows; this sorts what differs, which for a million rows may be hundreds.
    order = column.unique().sort().to_frame().with_row_index("code")
    codes = column.to_frame().join(order, on=column.name, how="left", maintain_order="left")
    return codes["code"].cast(pl.Int64).to_numpy()


def _ranked(values: Codes) -> tuple[Codes, Codes]:
    """Number equal integers alike, as `_ranks`, and count the rows of each number."""
    distinct, counts = np.unique(values, return_counts=True)
    return np.searchsorted(distinct, values), counts


def _follow(given: Codes, groups: Codes) -> Codes:
    """Let rows without a split follow rows of their group that have one."""
    of_group = np.full(groups.max(initial=-1) + 1, -1)
    of_group[groups[given >= 0]] = given[given >= 0]
    return np.where(given >= 0, given, of_group[groups])


def _by_class(kinds: Codes, shares: Floats, rng: np.random.Generator) -> Codes:
    """Divide single rows; returns split codes of shape (rows,)."""
    if not kinds.size:
        return kinds
    classes, sizes = _ranked(kinds)
    counts = _quotas(sizes, shares)
    shuffled = np.lexsort((rng.random(kinds.size), classes))  # class by class, random within
    codes = np.empty(kinds.size, np.int64)
    codes[shuffled] = np.repeat(np.tile(np.arange(3), sizes.size), counts.ravel())
    return codes


def _quotas(sizes: Codes, shares: Floats) -> Codes:
    """Round each class's shares to whole rows by the largest remainder.

    A remainder grows by what its split was denied in the classes before, so that many small
    classes add up to the right totals. Every class gives train at least one row.

    Args:
        sizes: Rows of each class, at least 1, shape (classes,).
        shares: Shares of the splits, of sum 1, shape (3,).

    Returns:
        Rows of shape (classes, 3), each within one of its due and of the right sum.
    """
    due = sizes[:, None] * shares
    counts = np.floor(due + _EPSILON).astype(np.int64)
    denied = np.zeros(3)
    for row, size in enumerate(sizes):
        remainder = due[row] - counts[row]
        claims = np.where(remainder > _EPSILON, remainder + denied, -np.inf)
        if counts[row, 0] == 0:
            claims[0] = np.inf
        first = np.argsort(-claims, kind="stable")[: size - counts[row].sum()]
        counts[row, first] += 1
        denied += due[row] - counts[row]
    for split in np.flatnonzero((shares > 0) & (counts.sum(axis=0) == 0)):
        _lend(counts, due, int(split))
    return counts


def _lend(counts: Codes, due: Floats, split: int) -> None:
    """Move a row that some split has above its due into an empty split, if there is one."""
    spare = np.where(counts.sum(axis=0) > 1, counts - due, 0.0)
    spare[counts[:, 0] < 2, 0] = 0.0  # the only row of a class in train stays
    row, donor = np.unravel_index(np.argmax(spare), spare.shape)
    if spare[row, donor] > _EPSILON:
        counts[row, donor] -= 1
        counts[row, split] += 1


def _by_group(kinds: Codes, groups: Codes, shares: Floats, rng: np.random.Generator) -> Codes:
    """Divide whole groups, the largest first; returns split codes of shape (rows,).

    Each group goes where it most lowers Pearson's chi-square between the class counts and their
    dues: relative to its due, each split is then filled at the same pace, so that all get large
    and small groups. All rows together count as one more class, which keeps the totals right
    where classes are small. A group with a class that train lacks goes to train.
    """
    if not kinds.size:
        return kinds
    classes, sizes = _ranked(kinds)
    members, rows = _ranked(groups)
    width = sizes.size + 1
    cells = np.concatenate([members * width + classes, members * width + sizes.size])
    cells, counts = np.unique(cells, return_counts=True)
    starts = np.searchsorted(cells // width, np.arange(rows.size + 1))
    columns = cells % width
    active = np.flatnonzero(shares > 0)
    due = np.append(sizes, kinds.size)[:, None] * shares[active]  # (classes + 1, splits)
    need = due.copy()
    scale = due + rows.mean()  # where less than one group is due, chi-square alone is too strict
    trained = np.zeros(width, bool)
    chosen = np.empty(rows.size, np.int64)
    for group in np.lexsort((rng.random(rows.size), -rows)):
        cell = slice(starts[group], starts[group + 1])
        held, size = columns[cell], counts[cell, None]
        # need^2 / scale becomes (need - size)^2 / scale; this is the difference:
        gain = ((2 * need[held] - size) * size / scale[held]).sum(axis=0)
        best = int(np.argmax(gain)) if trained[held].all() else 0
        trained[held] |= best == 0
        need[held, best] -= size[:, 0]
        chosen[group] = active[best]
    for split in active:
        if not (chosen == split).any():
            _lend_group(chosen, int(split), members, classes, rows)
    return chosen[members]


def _lend_group(chosen: Codes, split: int, members: Codes, classes: Codes, rows: Codes) -> None:
    """Move the smallest group that can be spared into an empty split, if there is one."""
    width = classes.max() + 1
    group, kind = np.divmod(np.unique(members * width + classes), width)
    in_train = chosen[group] == 0
    trained = np.bincount(kind[in_train], minlength=width)  # train's groups of each class
    bound = np.bincount(group[in_train & (trained[kind] < 2)], minlength=rows.size) > 0
    spare = np.flatnonzero(~bound & (np.bincount(chosen, minlength=3)[chosen] > 1))
    if spare.size:
        chosen[spare[np.argmin(rows[spare])]] = split
