"""The HDF5 file of each task: names, types, shapes, splits, checksum."""
