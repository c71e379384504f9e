"""Files that others wrote: meshes, clouds, scenes, tables, videos."""
