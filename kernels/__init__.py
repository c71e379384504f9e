"""Operations on point clouds and sequences: CPU and Triton, one file each."""
