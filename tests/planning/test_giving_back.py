"""What a process gives back to the system, and that nothing is lost by it."""

import ctypes
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from foveate.planning.memory import give_back

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nothing is given back elsewhere")
MIB = 1024**2
PAGES = 64
IMPORT = """
import polars, sys
from foveate.planning.memory import give_back, resident_bytes
before = resident_bytes()
give_back()
print(before - resident_bytes())
assert polars.DataFrame({"a": [3, 1, 2]}).sort("a")["a"].to_list() == [1, 2, 3]
"""


def test_what_an_import_has_read_is_given_back_and_comes_again() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True
    )
    assert int(ran.stdout) > 8 * MIB


def test_a_changed_page_of_a_file_that_can_only_be_read_now_is_kept(tmp_path: Path) -> None:
    """So are the tables that a loader writes into a library before it locks them."""
    path = tmp_path / "file"
    path.write_bytes(b"a" * PAGES * mmap.PAGESIZE)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE) as block:
        block[5] = ord("b")
        view = (ctypes.c_char * len(block)).from_buffer(block)
        place, length = ctypes.c_void_p(ctypes.addressof(view)), ctypes.c_size_t(len(block))
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mprotect(place, length, mmap.PROT_READ) == 0, os.strerror(ctypes.get_errno())
        give_back()
        assert bytes(view)[:7] == b"aaaaaba"
        del view
    assert path.read_bytes()[:7] == b"aaaaaaa"
