"""What the figures of a comparison were measured on, in words."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch


def machine() -> str:
    """ "AMD EPYC, 2 processors, 2 threads, Linux, Python 3.11.2, torch 2.15.0"."""
    count = os.cpu_count() or 1
    threads = torch.get_num_threads()
    return (
        f"{_processor()}, {count} processor{'s' * (count != 1)}, {threads} "
        f"thread{'s' * (threads != 1)}, {platform.system()}, Python {platform.python_version()}, "
        f"torch {torch.__version__.partition('+')[0]}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())
