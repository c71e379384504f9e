"""Matrices as tensor networks: TT, TR, BT, CP, Tucker and HT, each a file; `network.py` has what they share."""

from models.formats.bt import BT
from models.formats.cp import CP
from models.formats.dense import Dense
from models.formats.ht import HT
from models.formats.network import Format, Kron
from models.formats.spec import FORMATS, FormatSpec
from models.formats.tr import TR
from models.formats.tt import TT
from models.formats.tucker import Tucker

__all__ = ["BT", "CP", "FORMATS", "HT", "TR", "TT", "Dense", "Format", "FormatSpec", "Kron", "Tucker"]
