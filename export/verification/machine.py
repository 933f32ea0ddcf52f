"""What a measurement ran on: the processor, and the versions of the packages."""

import contextlib
import os
import platform
import re
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

PACKAGES = ("keras-vit", "tensorflow", "keras", "ai-edge-litert", "numpy")


def machine() -> dict[str, str | int]:
    """{"cpu": name, "cores": number}, as reports say it."""
    return {"cpu": cpu_name(), "cores": os.cpu_count()}


def cpu_name() -> str:
    """The processor's model name: a latency means nothing without it."""
    with contextlib.suppress(OSError):
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if match:
            return match[1].strip()
    return platform.processor() or platform.machine()


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """{"python": its version, package: its version} of those that are installed."""
    installed = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):  # a module may be of another package
            installed[package] = metadata.version(package)
    return installed
