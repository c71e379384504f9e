"""Points within a radius of centres, as groups in CSR form."""

from dropfold.kernels.points.ball_query.operation import ball_query, reference

__all__ = ["ball_query", "reference"]
