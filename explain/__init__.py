"""Why a network decides as it does, and which of its units matter."""

from dropfold.explain.explanation import Explanation
from dropfold.explain.maps import explain

__all__ = ["Explanation", "explain"]
