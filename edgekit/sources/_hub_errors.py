"""Why a hub gave no network, in one sentence: the libraries raise a chain of many kinds of errors."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from edgekit.runtime.errors import EdgekitError, SystemRefusedError, UsageError
from edgekit.sources._words import told

NO_CONNECTION = (ConnectionError, TimeoutError)
UNREACHABLE = {
    "ConnectError", "ConnectTimeout", "ConnectionError", "LocalEntryNotFoundError", "NameResolutionError",
    "OfflineModeIsEnabled", "ProxyError", "ReadTimeout", "SSLError", "URLError", "gaierror",
}  # fmt: skip
UNKNOWN = {"EntryNotFoundError", "HFValidationError", "RepositoryNotFoundError", "RevisionNotFoundError"}
CLOSED = {"GatedRepoError"}
FULL = {errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, errno.EDQUOT}
NO_PICKLE = "edgekit reads no pickles from a hub; convert them to safetensors"
FACTORY = "give a factory with weights from elsewhere: package.module:function --weights FILE"


def hub_error(error: BaseException, source: str, closest: str, local: str) -> EdgekitError:
    """The error to raise in the place of a library's own.

    `closest` is a hint when the name is not known, `local` says how to do without a connection.
    """
    chain = tuple(_chain(error))
    kinds = {type(each).__name__ for each in chain}
    status = next(filter(None, map(_status, chain)), 0)
    if refused := next((each for each in chain if getattr(each, "errno", None) in FULL), None):
        return SystemRefusedError(
            f"{source} cannot be stored: {told(refused)}", "free some space, or choose another cache folder"
        )
    if kinds & CLOSED or status == 403:
        return UsageError(f"the hub does not give {source} to everybody", "accept its terms and log in there")
    if kinds & UNKNOWN or status in (401, 404, 410):
        return UsageError(f"the hub knows no {source}", closest or f"check the name, or {FACTORY}")
    if kinds & UNREACHABLE or status or any(isinstance(each, NO_CONNECTION) for each in chain):
        answer = f"it answers {status}" if status else told(chain[-1])
        return SystemRefusedError(
            f"the hub of {source} cannot be reached: {answer}", f"try again with a connection, or {local}"
        )
    return _by_text(error, source, closest, local)


def _by_text(error: BaseException, source: str, closest: str, local: str) -> EdgekitError:
    """What only the library's sentence tells apart."""
    text = str(error).lower()
    if "connect" in text and "http" in text:
        return SystemRefusedError(
            f"the hub of {source} cannot be reached", f"try again with a connection, or {local}"
        )
    if "safetensors" in text:
        return UsageError(f"{source} has no safetensors weights", f"{NO_PICKLE}, or {FACTORY}")
    if "trust_remote_code" in text:
        return UsageError(
            f"{source} brings Python code of its own, which edgekit does not run",
            "look at that code, put it into a module of yours and give package.module:function",
        )
    if "valid model identifier" in text or text.startswith("unknown model"):
        return UsageError(f"the hub knows no {source}", closest or f"check the name, or {FACTORY}")
    if "no pretrained" in text or "pretrained tag" in text:
        return UsageError(f"{source} comes without pretrained weights", "give yours: --weights FILE")
    return UsageError(f"{source} cannot be made: {told(error)}", closest or FACTORY)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it, the first cause last."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        reason = getattr(current, "reason", None)
        current = current.__cause__ or current.__context__ or (reason if _is_error(reason) else None)


def _is_error(thing: object) -> bool:
    return isinstance(thing, BaseException)


def _status(error: BaseException) -> int:
    """The status of an HTTP answer, as urllib, requests and httpx keep it."""
    answer = getattr(error, "response", None)
    for holder, name in ((answer, "status_code"), (error, "code"), (error, "status")):
        value = getattr(holder, name, None)
        if isinstance(value, int) and 400 <= value < 600:
            return value
    return 0
