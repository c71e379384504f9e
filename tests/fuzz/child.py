"""The process in which inputs are read: python -m tests.fuzz.child FOLDER. Requests and verdicts are lines of JSON.

A reader that ends, stalls or swallows this process is a fault of the input that was being read; see `campaign`.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import sys
import traceback
import warnings
from pathlib import Path

BYTES_OF_MEMORY = 3 << 30  # beyond what the process has when it begins
COMPILED = ("txt", "ply", "pcd")  # formats whose readers have loops that are compiled


def main() -> None:
    folder = Path(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tests.fuzz import inputs
    os.dup2(nothing, 2)  # what readers and decoders say of broken files
    logging.disable(logging.WARNING)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(
        resource.RLIMIT_AS, (used + BYTES_OF_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1])
    )

    def answer(**values: str) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    for name in COMPILED:  # in their first use, which is slow
        for number in range(4):
            _empty(folder)
            inputs.judge(inputs.make_input(0, name, True, number, folder))
    answer(state="ready")
    for line in sys.stdin:
        request = json.loads(line)
        _empty(folder)
        try:
            one = inputs.make_input(**request, folder=folder)
        except BaseException:
            answer(state="failed", done=traceback.format_exc())
            continue
        answer(state="made", done=one.done)
        verdict, reason = inputs.judge(one)
        answer(state="judged", verdict=verdict, reason=reason)


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


if __name__ == "__main__":
    main()
