"""A process that keeps what it frees does not fetch it page by page again."""

import subprocess
import sys

import pytest

_PROGRAM = """
import resource, sys
from clipsearch.heap import keep_freed_memory
if not keep_freed_memory():
    sys.exit("not here")
for _ in range(3):
    bytearray(24_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    bytearray(24_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_freed_memory_is_used_again() -> None:
    words = [sys.executable, "-c", _PROGRAM]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if "not here" in done.stderr:
        pytest.skip("another C library")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1_000  # ten times 24 MB are 58,594 pages of 4 KiB
