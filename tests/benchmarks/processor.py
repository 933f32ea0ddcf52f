"""What a benchmark ran on, to be printed beside its figures."""

import os
import re
from pathlib import Path

from keras_vit.export.verification.machine import cpu_name


def machine() -> str:
    """The processor, its instructions for int8 and how many cores this process may use."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    flags = re.search(r"(?m)^(?:flags|Features)\s*:\s*(.+)$", text)
    int8 = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"} & set(flags[1].split() if flags else ())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cpu_name()}, {cores} cores, int8 instructions: {', '.join(sorted(int8)) or 'none'}"
