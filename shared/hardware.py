"""What figures were measured on, in words."""

import os
import platform
from functools import cache
from pathlib import Path


@cache
def cpu() -> str:
    """The processor's model and the number of cores that the system has."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.processor() or platform.machine()}, {os.cpu_count()} cores"
