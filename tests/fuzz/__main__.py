"""Broken and valid files of every format, read by the product: python -m tests.fuzz --seed 7 --inputs 5000.

A broken file must be read or refused by a sentence that names it, within 10 s and 3 GiB, and must not be read as other than
it was where it carries a checksum. A valid file must be read with the numbers that were written. Ends with a table, and with
status 1 if anything failed.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from tests.fuzz import campaign


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=int(time.time()) % 10**6, help="of all inputs")
    parser.add_argument("--inputs", type=int, default=5000, help="broken ones, of all formats together")
    parser.add_argument("--valid", type=int, default=200, help="valid ones, of each format")
    parser.add_argument("--format", action="append", help="only this one; may be given several times")
    parser.add_argument(
        "--workers", type=int, default=len(os.sched_getaffinity(0)), help="inputs read at a time"
    )
    parser.add_argument(
        "--keep", type=Path, default=Path("build/fuzz"), help="where inputs that fail are kept"
    )
    parser.add_argument("--only", help="FORMAT:broken|valid:NUMBER, read in this process")
    options = parser.parse_args()
    if options.only:
        read_one(options.seed, options.only)
        return
    from tests.fuzz.formats import FORMATS

    print(f"seed {options.seed}", flush=True)
    start = time.monotonic()
    work = campaign.deal(options.seed, options.format or list(FORMATS), options.inputs, options.valid)
    outcome = campaign.run(work, options.workers, options.keep, show=True)
    print(campaign.table(outcome))
    print(
        f"seed {options.seed}: {len(work)} inputs, {len(outcome.failures)} failed, {time.monotonic() - start:.0f} s"
    )
    raise SystemExit(1 if outcome.failures else 0)


def read_one(seed: int, label: str) -> None:
    from tests.fuzz.inputs import judge, make_input

    name, kind, number = label.rsplit(":", 2)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    one = make_input(seed, name, kind == "valid", int(number), folder)
    print(f"{one.path}: {one.done}")
    print(*judge(one), sep=": ")


if __name__ == "__main__":
    main()
