"""Matrices as tensor networks: TT, TR, BT, CP, Tucker and HT, each a file; `network.py` has what they share."""

from dropfold.models.formats.bt import BT
from dropfold.models.formats.cp import CP
from dropfold.models.formats.dense import Dense
from dropfold.models.formats.ht import HT
from dropfold.models.formats.network import Format, Kron
from dropfold.models.formats.spec import FORMATS, FormatSpec
from dropfold.models.formats.tr import TR
from dropfold.models.formats.tt import TT
from dropfold.models.formats.tucker import Tucker

__all__ = ["BT", "CP", "FORMATS", "HT", "TR", "TT", "Dense", "Format", "FormatSpec", "Kron", "Tucker"]
