"""How a CSV file is written: its separator, its header, and what polars would not tell of it."""

from __future__ import annotations

import codecs
import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from foveate.errors import ManifestError, listed

_SEPARATORS = (",", ";", "\t")
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SAVE = "save it as UTF-8 (in Excel: CSV UTF-8)"


@dataclass(frozen=True)
class CsvForm:
    """How a CSV file is written.

    Attributes:
        path: The file.
        separator: What stands between fields: of comma, semicolon and tab the most frequent in
            the header; where none is there, a tab in a .tsv file and else a comma.
        header: The column names as they are written.
    """

    path: Path
    separator: str
    header: tuple[str, ...]

    @classmethod
    def of(cls, path: Path) -> CsvForm:
        """Look at the beginning of a file.

        Raises:
            ManifestError: It is empty, UTF-16, or no text at all.
        """
        with path.open("rb") as file:
            start = file.read(len(codecs.BOM_UTF16_LE))
        if start in _UTF_16:
            raise ManifestError(f"{path} must be UTF-8 text, but got UTF-16; {_SAVE}")
        usual = "\t" if path.suffix.lower() == ".tsv" else ","
        header = _header(path, usual)
        counts = Counter(character for field in header for character in field)
        counts[usual] = len(header) - 1  # those in quotes do not count
        separator = max((usual, *_SEPARATORS), key=counts.__getitem__)
        if separator != usual:
            header = _header(path, separator)
        if not header:
            raise ManifestError(f"{path} must have a header that names its columns, but is empty")
        return cls(path, separator, tuple(header))

    def require_once(self, names: Sequence[str]) -> None:
        """Check that each of some columns stands in the header once.

        Raises:
            ManifestError: Some stand there several times.
        """
        counts = Counter(self.header)
        if twice := [repr(name) for name in dict.fromkeys(names) if counts[name] > 1]:
            raise ManifestError(
                f"{self.path}: a column must stand in the header once, but got several "
                f"{listed(twice)}; rename or remove all but one"
            )

    def problem(self) -> str | None:
        """Find what keeps the file from being read: where it is no UTF-8, or a line too long."""
        with self.path.open("rb") as raw:
            for number, line in enumerate(raw, 1):
                try:
                    line.decode()
                except UnicodeDecodeError as error:
                    found = line[max(error.start - 10, 0) : error.end + 10]
                    return f"line {number} must be UTF-8 text, but got {found!r}; {_SAVE}"
        with self.path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter=self.separator)
            for fields in reader:
                if len(fields) > len(self.header):
                    return (
                        f"line {reader.line_num} has {len(fields)} fields, but the header has "
                        f"{len(self.header)}; quote fields that contain the separator"
                    )
        return None


def _header(path: Path, separator: str) -> list[str]:
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        try:
            return next(csv.reader(file, delimiter=separator), [])
        except csv.Error as error:
            raise ManifestError(f"{path} must be a text of fields, but got: {error}") from None
