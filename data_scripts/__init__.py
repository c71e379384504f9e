"""Data sets in, one HDF5 file out."""
