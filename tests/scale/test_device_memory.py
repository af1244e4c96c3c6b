"""What backends raise where the memory of an accelerator does not suffice."""

import pytest

from foveate.scale.runtime import lacks_device_memory

FULL = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes"


@pytest.mark.parametrize(
    ("name", "base", "message", "lacks"),
    [
        ("ResourceExhaustedError", Exception, "OOM when allocating tensor", True),
        ("OutOfMemoryError", RuntimeError, "CUDA out of memory", True),
        ("JaxRuntimeError", RuntimeError, FULL, True),
        ("XlaRuntimeError", RuntimeError, FULL, True),
        ("JaxRuntimeError", RuntimeError, "INTERNAL: it broke", False),
        ("RuntimeError", Exception, FULL, False),
    ],
)
def test_it_is_known_by_name(name: str, base: type, message: str, lacks: bool) -> None:
    kind = type(name, (base,), {})
    assert lacks_device_memory(kind(message)) is lacks
    assert lacks_device_memory(type("Special", (kind,), {})(message)) is lacks
