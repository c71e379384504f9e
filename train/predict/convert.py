"""`dropfold convert CHECKPOINT --out FILE.safetensors`: weights of other projects' networks in ours.

    dropfold convert model_1.t7 --out scenes.safetensors

Which network a checkpoint is of, its widths and its classes are read off its weights. Nothing in a checkpoint is executed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dropfold.data_scripts.work import atomic

WRITER = "dropfold convert"  # in the file's metadata
# safetensors: the size of the header, and the header, which begins with the metadata.
CONVERTED = atomic.Own(
    "file of weights that dropfold convert wrote",
    rb'.{8}\{"__metadata__":\{[^}]*"written by":"%s"' % WRITER.encode(),
)


@dataclass
class Options:
    """Convert a checkpoint of antao97/dgcnn.pytorch or yanx27/Pointnet_Pointnet2_pytorch to our network's weights."""

    source: Annotated[Path, tyro.conf.Positional]
    """The .t7 or .pth file."""
    out: Path
    """The file of weights to write, .safetensors."""
    overwrite: bool = False
    """Also replace a file that this command did not write."""


def main(options: Options) -> None:
    from safetensors.torch import save

    from dropfold.models.convert.clouds import load

    out = options.out
    if out.exists() and options.source.exists() and out.samefile(options.source):
        raise ValueError(f"--out {out} is the checkpoint itself, which would be lost; give another.")
    atomic.check_target(out, CONVERTED, overwrite=options.overwrite)
    atomic.check_folder(out.parent)
    try:
        model = load(options.source)
    except RuntimeError as error:  # weights of other shapes
        raise ValueError(str(error)) from None
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    atomic.make_folder(out.parent)
    atomic.write_bytes(out, save(state, {"format": "pt", "written by": WRITER}))
    numbers = sum(parameter.numel() for parameter in model.parameters())
    print(f"{out}: {type(model).__name__}, {numbers:,} parameters.")
