"""Small, robust networks: point clouds regularised by dropping, video RNNs folded into tensor networks.

The packages are `dropfold.kernels`, `dropfold.models`, `dropfold.data_scripts`, `dropfold.train`, `dropfold.explain` and
`dropfold.compress`. In a checkout they are the folders beside this one; in an installed wheel they are inside it.
"""

from pathlib import Path

_CHECKOUT = Path(__file__).resolve().parent.parent
if (_CHECKOUT / "pyproject.toml").is_file() and (_CHECKOUT / "kernels" / "backend").is_dir():
    __path__.append(str(_CHECKOUT))
del _CHECKOUT, Path
