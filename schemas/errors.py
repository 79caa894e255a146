"""The one exception whose message is meant for a person."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

LONGEST = 80  # characters of a name that similar ones are looked for: the search is quadratic


class UserError(Exception):
    """Something the user can put right. The message names what was found, what was expected, what to do.

    The command line prints it without a traceback and exits with status 2.
    """


class MissingInput(UserError):
    """What another stage makes is missing or is not current: nothing is wrong where that stage comes before."""


def nearest(found: str, known: Iterable[str], *, cutoff: float) -> list[str]:
    """The known name most like `found`, or none."""
    return difflib.get_close_matches(found[:LONGEST], list(known), n=1, cutoff=cutoff)


def hint(found: str, known: Iterable[str]) -> str:
    """ " Did you mean 'NAME'?" with the known name most like `found`; empty where none is."""
    near = nearest(found, known, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def choice_error(what: str, found: str, allowed: Iterable[str]) -> UserError:
    """An error for an unknown name that lists the allowed ones, the nearest first."""
    names = sorted(allowed)
    return UserError(f"unknown {what} {found!r}.{hint(found, names)} Allowed: {', '.join(names)}.")


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
_NOT_A_PLACE = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)
_ADVICE = {
    **dict.fromkeys(_FULL, "What is done is kept; make room or choose another folder, and run the command again"),
    **dict.fromkeys(_REFUSED, "What is done is kept; allow writing there or choose another folder, and run the command "
                              "again"),
    **dict.fromkeys(_NOT_A_PLACE, "A file is where a folder is needed, or the reverse: move it, or name another place"),
}  # fmt: skip


def user_error(error: BaseException) -> UserError | None:
    """The error as one that the user can put right: a UserError, or a place that cannot be written or used."""
    if isinstance(error, UserError):
        return UserError(*error.args[:1])
    if isinstance(error, OSError) and error.errno in _ADVICE:
        place = f"{error.filename}: " if error.filename else ""
        return UserError(f"{place}{error.strerror}. {_ADVICE[error.errno]}")
    return None
