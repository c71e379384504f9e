"""Where a figure comes from: the commit of the checkout and the machine that measured it."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]


def commit() -> str:
    """The commit of the checkout, with `+` behind it where the working tree differs; "unknown" where git cannot tell.

    Of an installed wheel its version: site-packages may lie inside another project's repository.
    """
    if not (ROOT / "pyproject.toml").is_file():
        try:
            return metadata.version("dropfold")
        except metadata.PackageNotFoundError:
            return "unknown"
    git = ["git", "-C", str(ROOT)]
    try:
        top = subprocess.check_output(
            [*git, "rev-parse", "--show-toplevel"], text=True, stderr=subprocess.DEVNULL
        )
        if Path(top.strip()).resolve() != ROOT:  # a copy of the sources inside another repository
            return "unknown"
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
