"""Lists the packages: what is imported as `dropfold.kernels` is the folder kernels/ (pyproject.toml has the rest)."""

from setuptools import find_packages, setup

FOLDERS = ("kernels", "models", "train", "data_scripts")

setup(
    packages=[
        *("dropfold", "dropfold.data"),
        *(f"dropfold.{name}" for name in find_packages(".", include=[f"{folder}*" for folder in FOLDERS])),
    ]
)
