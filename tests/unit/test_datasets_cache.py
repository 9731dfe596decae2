"""The cache of published files: checksums, missing files, downloads, unwritable folders."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from graphsec import datasets
from graphsec.datasets import cache
from graphsec.datasets.cache import (
    CacheError,
    DataCorruptError,
    DataError,
    DataMissingError,
    File,
)
from graphsec.registry import DATASETS, SpecError
from graphsec.rng import Rng

CONTENT = b"forty-two nodes"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
NOWHERE = "http://127.0.0.1:9/one.bin"  # nothing listens on the discard port


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache.ENV, str(tmp_path / "cache"))
    monkeypatch.delenv(cache.TRUST, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    home = tmp_path / "served"
    home.mkdir()
    (home / "one.bin").write_bytes(CONTENT)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(home))) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()


def file(url: str = NOWHERE, sha256: str | None = DIGEST) -> File:
    return File("family/one.bin", url, sha256, len(CONTENT))


def put(folder: Path, content: bytes) -> Path:
    path = folder / "family" / "one.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def test_where(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert datasets.where() == folder
    monkeypatch.setenv(cache.ENV, "")
    assert datasets.where().name == "graphsec"


def test_present_file_is_read(folder: Path) -> None:
    put(folder, CONTENT)
    assert cache.read([file()]) == {"family/one.bin": CONTENT}


def test_absent_file_is_downloaded_and_kept(folder: Path, server: str) -> None:
    assert cache.read([file(f"{server}/one.bin")]) == {"family/one.bin": CONTENT}
    assert [path.name for path in (folder / "family").iterdir()] == ["one.bin"]
    assert cache.read([file()]) == {"family/one.bin": CONTENT}  # no address needed any more


def test_download_with_wrong_checksum_leaves_nothing(folder: Path, server: str) -> None:
    wrong = file(f"{server}/one.bin", "0" * 64)
    with pytest.raises(DataMissingError, match=r"family/one\.bin"):
        cache.read([wrong])
    assert list((folder / "family").iterdir()) == []


def test_no_such_address(folder: Path, server: str) -> None:
    with pytest.raises(DataMissingError, match="404"):
        cache.read([file(f"{server}/two.bin")])


@pytest.mark.parametrize("content", [CONTENT[:-3], b"", CONTENT + b"!", b"forty-two nodez"])
def test_wrong_checksum_is_refused_and_the_file_left(
    folder: Path, server: str, content: bytes
) -> None:
    path = put(folder, content)
    with pytest.raises(DataCorruptError) as caught:
        cache.read([file(f"{server}/one.bin")])
    message = str(caught.value)
    assert str(path) in message
    assert DIGEST in message
    assert hashlib.sha256(content).hexdigest() in message
    assert "move it away" in message
    assert path.read_bytes() == content


def test_no_network_names_every_file_address_and_folder(folder: Path) -> None:
    other = File("family/two.bin", "http://127.0.0.1:9/two.bin", DIGEST, 3)
    with pytest.raises(DataMissingError) as caught:
        cache.read([file(), other])
    message = str(caught.value)
    for part in ("family/one.bin", NOWHERE, "family/two.bin", other.url, str(folder / "family")):
        assert part in message
    assert cache.ENV in message


def test_unknown_checksum_is_not_downloaded(folder: Path, server: str) -> None:
    with pytest.raises(DataMissingError, match=f"knows no sha256.*{cache.TRUST}=family/one.bin"):
        cache.read([file(f"{server}/one.bin", None)])
    assert not folder.exists()


def test_unknown_checksum_is_not_read_unless_vouched_for(
    folder: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = file(f"{server}/one.bin", None)
    path = put(folder, CONTENT)
    with pytest.raises(DataCorruptError, match=f"{cache.TRUST}=family/one.bin={DIGEST}"):
        cache.read([unknown])
    monkeypatch.setenv(cache.TRUST, f"x=1, family/one.bin={DIGEST.upper()}")
    assert cache.read([unknown])["family/one.bin"] == CONTENT
    path.unlink()
    assert cache.read([unknown])["family/one.bin"] == CONTENT  # now it may be downloaded
    path.write_bytes(b"something else")
    with pytest.raises(DataCorruptError, match="wrong checksum"):
        cache.read([unknown])


def test_trust_needs_a_checksum(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.TRUST, "family/one.bin=yes")
    with pytest.raises(DataError, match="must be given 64 hexadecimal digits, found 'yes'"):
        cache.read([file(sha256=None)])


def test_trust_does_not_replace_a_known_checksum(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder, b"evil")
    monkeypatch.setenv(cache.TRUST, f"family/one.bin={hashlib.sha256(b'evil').hexdigest()}")
    with pytest.raises(DataCorruptError, match="wrong checksum"):
        cache.read([file()])


def test_unwritable_cache_names_the_folder(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Below a regular file: that stops root too.
    (tmp_path / "plain").write_text("not a folder")
    monkeypatch.setenv(cache.ENV, str(tmp_path / "plain" / "cache"))
    with pytest.raises(CacheError, match=r"plain/cache.* can't be written") as caught:
        cache.read([file(f"{server}/one.bin")])
    assert cache.ENV in str(caught.value)


def test_unreadable_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder, CONTENT)

    def broken(self: Path) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", broken)
    with pytest.raises(CacheError, match=r"one\.bin can't be read"):
        cache.read([file()])


def test_full_disk_is_named(folder: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(CacheError, match="No space left"):
        cache.read([file(f"{server}/one.bin")])


# -- datasets through the cache -----------------------------------------------------------------


def test_missing_dataset_lists_all_its_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    away = tuple(f._replace(url=f"http://127.0.0.1:9/{f.name}") for f in DATASETS["cora"].files)
    monkeypatch.setattr(DATASETS["cora"], "files", away)
    assert not datasets.available("cora")
    with pytest.raises(DataMissingError) as caught:
        datasets.load("cora", Rng(0))
    assert str(caught.value).count("http://127.0.0.1:9/planetoid/ind.cora.") == 7
    assert str(folder / "planetoid") in str(caught.value)
    with pytest.raises(DataMissingError):
        datasets.fetch("cora")


def test_pubmed_says_that_allx_has_no_checksum(folder: Path) -> None:
    with pytest.raises(DataMissingError) as caught:
        datasets.load("pubmed", Rng(0))
    assert f"{cache.TRUST}=planetoid/ind.pubmed.allx=" in str(caught.value)
    assert "https://github.com/kimiyoung/planetoid/raw/" in str(caught.value)


def test_embedded_needs_nothing(folder: Path) -> None:
    assert datasets.available("karate")
    assert datasets.fetch("karate") == []
    assert datasets.load("karate", Rng(0)).num_edges == 78
    assert not folder.exists()


def test_unknown_name_suggests() -> None:
    with pytest.raises(SpecError, match="did you mean 'planetoid/cora'"):
        datasets.fetch("planetoid/core")


def test_listing_covers_the_registry(folder: Path) -> None:
    rows = {row.name: row for row in datasets.listing()}
    assert set(rows) == set(DATASETS)
    assert rows["planetoid/cora"].family == "planetoid"
    assert rows["planetoid/cora"].needs_files
    assert not rows["planetoid/cora"].present
    assert rows["digits-knn"].present
    assert rows["diabetes-knn"].sensitive == "sex"
    for row in rows.values():
        assert row.description.endswith((".", ")", ":"))
        if row.needs_files:
            assert row.licence
            assert row.source.startswith("https://")


def test_every_file_has_an_address_that_cannot_change() -> None:
    for name in DATASETS:
        for each in DATASETS[name].files:
            assert "/raw/" in each.url
            commit = each.url.split("/raw/")[1].split("/")[0]
            assert len(commit) == 40, each.url
            if not each.name.endswith("pubmed.allx"):
                assert each.sha256 is not None
                assert len(each.sha256) == 64
                assert each.size > 0
