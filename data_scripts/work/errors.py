"""What may be wrong with data. Each message names the file, what was found and what was expected; all are ValueErrors."""

from __future__ import annotations

import errno
import os


def in_a_sentence(error: BaseException) -> str:
    """What an error says; of the system's own (a full disk), the file and what is wrong with it."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    file = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    return f"{file}{error.strerror}"


def is_of_broken_data(error: Exception) -> bool:
    """Whether an error that a library raised at reading a file is the file's fault, and not the system's."""
    # gzip and bzip2 raise OSErrors without a number; EINVAL comes of a place before the file's begin.
    return not isinstance(error, OSError) or error.errno in (None, errno.EINVAL)


class ArchiveError(ValueError):
    """An archive is broken or asks for what no data set needs; the message names it and the member."""


class SchemaError(ValueError):
    """A file is not what the schema says; the message names the file, the item, and how to make it anew."""


class ShapeError(ValueError):
    """A file is not a shape; the message names it, what is wrong and what is expected."""


class VideoError(ValueError):
    """A file is not a whole video; the message names it and what is wrong."""


class PictureError(ValueError):
    """A file is not a picture that is read; the message names it, what it is and what was expected."""
