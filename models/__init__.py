"""Networks: thin modules over `kernels`, one architecture a file."""
