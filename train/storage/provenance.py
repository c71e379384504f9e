"""Where a figure comes from: the commit of the checkout and the machine that measured it."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]


def commit() -> str:
    """The commit of the checkout, with `+` behind it where the working tree differs; "unknown" outside of one."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.check_output(
            [*git, "rev-parse", "--short", "HEAD"], text=True, stderr=subprocess.DEVNULL
        )
        changed = subprocess.check_output([*git, "status", "--porcelain", "-uno"], text=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.strip() + ("+" if changed.strip() else "")


def machine(device: torch.device | str = "cpu") -> str:
    """The processor or GPU in words, with the cores that torch uses."""
    device = torch.device(device)
    if device.type != "cpu":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {torch.get_num_threads()} of {os.cpu_count()} cores"
