"""How a CSV file is written: its separator, its header, and what polars would not tell of it."""

from __future__ import annotations

import codecs
import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from foveate.errors import ManifestError, listed

_SEPARATORS = (",", ";", "\t")
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_LONGEST = 2**20  # characters of a header
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
            ManifestError: It does not begin with a header, or is no text in UTF-8.
        """
        with path.open("rb") as file:
            start = file.read(len(codecs.BOM_UTF16_LE))
        if start in _UTF_16:
            raise ManifestError(f"{path} must be UTF-8 text, but got UTF-16; {_SAVE}")
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            first = file.readline(_LONGEST)
        if not first.strip() or first.startswith("sep="):
            found = repr(first.strip()) if first.strip() else "an empty file or line"
            raise ManifestError(
                f"{path} must begin with a header that names its columns, but got {found}"
            )
        usual = "\t" if path.suffix.lower() == ".tsv" else ","
        outside = re.sub('"[^"]*"', "", first)
        form = cls(path, max((usual, *_SEPARATORS), key=outside.count), ())
        form = replace(form, header=tuple(form._read_header()))
        # A name may hold this character, too, which stands for what is no UTF-8.
        if any("\ufffd" in name for name in form.header) and (problem := form.problem()):
            raise ManifestError(f"{path} cannot be read: {problem}")
        return form

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
        """Find what keeps the file from being read: other text, stray quotes, a line too long."""
        with self.path.open("rb") as raw:
            for number, line in enumerate(raw, 1):
                try:
                    line.decode()
                except UnicodeDecodeError as error:
                    found = line[max(error.start - 10, 0) : error.end + 10]
                    return f"line {number} must be UTF-8 text, but got {found!r}; {_SAVE}"
        field = f'(?:"(?:[^"]|"")*"|[^"{self.separator}]*)'
        well_quoted = re.compile(f"{field}(?:{self.separator}{field})*")
        with self.path.open(newline="", encoding="utf-8-sig") as file:
            lines: list[str] = []  # of the record; a quoted field may have several
            reader = csv.reader(_noted(file, lines), delimiter=self.separator)
            for fields in reader:
                record = "".join(lines).rstrip("\r\n")
                lines.clear()
                if '"' in record and not well_quoted.fullmatch(record):
                    return (
                        f"in line {reader.line_num} a field that holds a quotation mark must "
                        "stand in quotes, with the mark doubled"
                    )
                if len(fields) > len(self.header):
                    return (
                        f"line {reader.line_num} has {len(fields)} fields, but the header has "
                        f"{len(self.header)}; quote fields that contain the separator"
                    )
        return None

    def _read_header(self) -> list[str]:
        with self.path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            try:
                return next(csv.reader(file, delimiter=self.separator), [])
            except csv.Error as error:
                raise ManifestError(
                    f"{self.path} must be a text of fields, but got: {error}"
                ) from None


def _noted(lines: Iterable[str], notes: list[str]) -> Iterator[str]:
    for line in lines:
        notes.append(line)
        yield line
