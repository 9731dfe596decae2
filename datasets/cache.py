"""Published files: where they are kept, checked and fetched from.

A file is read as bytes in one go and its sha256 compared before anything parses it, so what was
checked is what is read. Nothing here ever writes over a file that exists.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ENV = "GRAPHSEC_DATA"
TRUST = "GRAPHSEC_TRUST"


class DataError(RuntimeError):
    """A dataset can't be had; the message names the file and what to do."""


class DataMissingError(DataError):
    """Files are neither in the cache nor to be downloaded."""


class DataCorruptError(DataError):
    """A file is not what was published: wrong checksum, truncated, or not safe to read."""


class CacheError(DataError):
    """The cache folder can't be read or written."""


class File(NamedTuple):
    """A published file.

    Attributes:
        name: Path inside the cache folder.
        url: Address of exactly these bytes.
        sha256: Checksum in hexadecimal; None where graphsec doesn't know it.
        size: Bytes, 0 where unknown.
    """

    name: str
    url: str
    sha256: str | None
    size: int = 0


def where() -> Path:
    """The cache folder: ``GRAPHSEC_DATA``, or else the user's cache folder."""
    given = os.environ.get(ENV)
    if given:
        return Path(given).expanduser()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("graphsec", appauthor=False))


def path_of(file: File) -> Path:
    """Where a file is, or would be, in the cache."""
    return where() / file.name


def present(files: Sequence[File]) -> bool:
    """Whether all files are in the cache (not whether they are intact)."""
    return all(path_of(file).is_file() for file in files)


def read(files: Sequence[File]) -> dict[str, bytes]:
    """Content of each file by name, downloaded if absent and always checked.

    Raises:
        DataMissingError: Absent and not to be downloaded; names every missing file at once.
        DataCorruptError: A checksum differs.
        CacheError: The cache folder can't be read or written.
    """
    ensure(files)
    return {file.name: _checked(file) for file in files}


def ensure(files: Sequence[File]) -> list[Path]:
    """Download what is absent; returns the paths.

    Raises:
        DataMissingError: A download failed, or a file has no known checksum.
        CacheError: The cache folder can't be written.
    """
    missing = [file for file in files if not _exists(path_of(file))]
    if any(_expected(file) is None for file in missing):
        raise DataMissingError(_advice(missing, "a file with no known checksum isn't downloaded"))
    for number, file in enumerate(missing):
        try:
            _download(file)
        except CacheError:
            raise
        except Exception as error:
            # requests, urllib3, ftplib and pooch have no exception in common.
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise DataMissingError(_advice(missing[number:], reason)) from error
    return [path_of(file) for file in files]


def _exists(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        raise CacheError(f"cache folder {path.parent} can't be read: {error}") from error


def _checked(file: File) -> bytes:
    path = path_of(file)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CacheError(f"{path} can't be read: {error}") from error
    expected, found = _expected(file), hashlib.sha256(content).hexdigest()
    if expected is None:
        raise DataCorruptError(
            f"{path}: graphsec knows no checksum for this file, so it isn't read unasked; it comes "
            f"from {file.url}. If you trust your copy, set {TRUST}={file.name}={found}"
        )
    if found != expected:
        short = f" ({len(content):,} bytes, {file.size:,} expected)" if file.size else ""
        raise DataCorruptError(
            f"{path}: wrong checksum{short}: sha256 must be {expected}, found {found}. The file is "
            f"damaged or another version; move it away and it is downloaded again from {file.url}"
        )
    return content


def _expected(file: File) -> str | None:
    """The checksum to hold a file to: ours, or the one the user vouches for in the environment.

    ``GRAPHSEC_TRUST`` lists ``file=sha256`` pairs, separated by commas. It can't replace a
    checksum that graphsec knows.
    """
    if file.sha256 is not None:
        return file.sha256
    for entry in os.environ.get(TRUST, "").split(","):
        name, _, digest = entry.strip().partition("=")
        if name == file.name:
            digest = digest.strip().lower()
            if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
                raise DataError(
                    f"{TRUST}: {name} must be given 64 hexadecimal digits, found {digest!r}"
                )
            return digest
    return None


def _download(file: File) -> None:
    """Fetch one file: to a temporary name beside it, checked, then moved into place."""
    import pooch

    path = path_of(file)
    _writable(path.parent)
    pooch.retrieve(
        file.url,
        known_hash=f"sha256:{_expected(file)}",
        fname=path.name,
        path=path.parent,
        downloader=pooch.HTTPDownloader(timeout=30),
    )


def _writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CacheError(
            f"cache folder {folder} can't be written: {error}; "
            f"set {ENV} to a folder that can, or put the files there by hand"
        ) from error


def _advice(missing: Sequence[File], reason: str) -> str:
    lines = [f"missing in {where()} and not downloaded ({reason}):"]
    for file in missing:
        lines.append(f"  {file.name}  from  {file.url}")
        if _expected(file) is None:
            lines.append(
                f"    (graphsec knows no sha256 for it: to use it, set {TRUST}={file.name}=<sha256 "
                "of a copy you trust>)"
            )
    folders = sorted({str(path_of(file).parent) for file in missing})
    lines.append(f"put each into {' and '.join(folders)}, or set {ENV} to the folder that has them")
    return "\n".join(lines)
