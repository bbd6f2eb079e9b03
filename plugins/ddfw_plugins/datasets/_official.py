"""The official files of public data sets: their checksums, and how they are downloaded and unpacked.

A file is not trusted before its md5 was checked. Of an archive only members with expected names and checksums are
written, each to its own place below the data root.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import stat
import sys
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self
from urllib.parse import urlsplit

from attrs import field, frozen

from ddfw import DataError
from ddfw.artifacts import atomic
from ddfw.artifacts.opening import opened, read_whole

_TIMEOUT_S = 30.0
_PIECE = 1 << 20
#: Bytes that an archive may hold besides the wanted members, for a readme, headers and padding.
_SLACK = 1 << 20

_MNIST = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/")
_FASHION = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",)
_SVHN = ("http://ufldl.stanford.edu/housenumbers/",)
_CIFAR = ("https://www.cs.toronto.edu/~kriz/",)


@frozen
class OfficialFile:
    """What is known of one official file.

    Args:
        md5: md5 of its content, in hexadecimal; None if none was published.
        limit: largest size in bytes; a larger file is not read.
        addresses: addresses for downloading it, in the order in which they are tried.
    """

    md5: str | None
    limit: int
    addresses: tuple[str, ...] = field(default=())


def _file(name: str, md5: str | None, limit: int, hosts: tuple[str, ...] = ()) -> tuple[str, OfficialFile]:
    base = name.rsplit("/", 1)[-1]
    return name, OfficialFile(md5, limit, tuple(host + base for host in hosts))


#: Every official file by its path below the data root. Addresses and checksums of downloads are those of torchvision.
FILES: dict[str, OfficialFile] = dict(
    (
        _file("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", 1 << 28, _CIFAR),
        _file("cifar-10-batches-py/data_batch_1", "c99cafc152244af753f735de768cd75f", 1 << 25),
        _file("cifar-10-batches-py/data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec", 1 << 25),
        _file("cifar-10-batches-py/data_batch_3", "54ebc095f3ab1f0389bbae665268c751", 1 << 25),
        _file("cifar-10-batches-py/data_batch_4", "634d18415352ddfa80567beed471001a", 1 << 25),
        _file("cifar-10-batches-py/data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb", 1 << 25),
        _file("cifar-10-batches-py/test_batch", "40351d587109b95175f43aff81a1287e", 1 << 25),
        _file("cifar-10-batches-py/batches.meta", "5ff9c542aee3614f3951f8cda6e48888", 1 << 16),
        _file("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", 1 << 28, _CIFAR),
        _file("cifar-100-python/train", "16019d7e3df5f24257cddd939b257f8d", 1 << 28),
        _file("cifar-100-python/test", "f0ef6b0ae62326f3e7ffdfab6717acfc", 1 << 26),
        _file("cifar-100-python/meta", "7973b15100ade9c7d40fb424638fde48", 1 << 16),
        _file("MNIST/raw/train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873", 1 << 25, _MNIST),
        _file("MNIST/raw/train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432", 1 << 20, _MNIST),
        _file("MNIST/raw/t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3", 1 << 25, _MNIST),
        _file("MNIST/raw/t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c", 1 << 20, _MNIST),
        _file("MNIST/raw/train-images-idx3-ubyte", "6bbc9ace898e44ae57da46a324031adb", 1 << 26),
        _file("MNIST/raw/train-labels-idx1-ubyte", "a25bea736e30d166cdddb491f175f624", 1 << 20),
        _file("MNIST/raw/t10k-images-idx3-ubyte", "2646ac647ad5339dbf082846283269ea", 1 << 26),
        _file("MNIST/raw/t10k-labels-idx1-ubyte", "27ae3e4e09519cfbb04c329615203637", 1 << 20),
        _file("FashionMNIST/raw/train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d", 1 << 26, _FASHION),
        _file("FashionMNIST/raw/train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe", 1 << 20, _FASHION),
        _file("FashionMNIST/raw/t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79", 1 << 25, _FASHION),
        _file("FashionMNIST/raw/t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310", 1 << 20, _FASHION),
        # Checksums were published for the compressed files only; of these four, header and size are checked instead.
        _file("FashionMNIST/raw/train-images-idx3-ubyte", None, 1 << 26),
        _file("FashionMNIST/raw/train-labels-idx1-ubyte", None, 1 << 20),
        _file("FashionMNIST/raw/t10k-images-idx3-ubyte", None, 1 << 26),
        _file("FashionMNIST/raw/t10k-labels-idx1-ubyte", None, 1 << 20),
        _file("train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373", 1 << 28, _SVHN),
        _file("test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3", 1 << 27, _SVHN),
    )
)


class Ticker:
    """Reports the progress of a long job on standard error: one line every few seconds, none for a short job.

    Args:
        what: name of the job, for the lines.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._next = time.monotonic() + 2.0

    def tell(self, done: str) -> None:
        """Writes a line that says how much is `done`, if the last line is some seconds old."""
        if time.monotonic() >= self._next:
            sys.stderr.write(f"{self._what}: {done}\n")
            self._next = time.monotonic() + 5.0


def below(root: Path | None, dataset: str, what: str) -> Path:
    """Returns the data root, or raises an error that says how to name one.

    Args:
        root: the data root that the user named, or None.
        dataset: name of the data set, for the error text.
        what: the files or folder expected below the data root, for the error text.

    Raises:
        DataError: the user named no data root.
    """
    if root is None:
        raise DataError(f"{dataset} needs a data root: name the folder that has {what} with --data-root or DDFW_DATA")
    return root


def find(root: Path | None, path: str, exists: Callable[[Path], bool], what: str, way_out: str) -> Path:
    """Finds a user's file or folder, whose path is relative to the data root, or else to the current folder.

    Args:
        root: the data root that the user named, or None.
        path: the path that the user gave.
        exists: whether a path is one of a file, or of a folder.
        what: the wanted thing, for the error text.
        way_out: what to do about it, for the error text.

    Raises:
        DataError: there is none.
    """
    tried = dict.fromkeys(([] if root is None else [root / path]) + [Path(path)])
    for candidate in tried:
        if exists(candidate):
            return candidate
    raise DataError(f"no {what} at {' or '.join(map(str, tried))}; {way_out}")


def read(path: Path, official: OfficialFile, way_out: str) -> bytes:
    """Reads a file and checks its md5.

    Args:
        path: the file.
        official: md5 and size limit of the file.
        way_out: how to get the file, for error texts.

    Returns:
        The content of the file.

    Raises:
        DataError: the file is missing, unreadable, too large or not the official one.
    """
    try:
        found = path.stat()
        # Opening a named pipe would block for ever.
        if not stat.S_ISREG(found.st_mode):
            raise DataError(f"{path} is not a file; {way_out}")
        if found.st_size > official.limit:
            raise DataError(
                f"{path} has {found.st_size:,} bytes, the official file is smaller; delete it and {way_out}"
            )
        content = read_whole(path, official.limit)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{path} is missing; {way_out}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; {way_out}") from error
    md5 = md5_of(content)
    if official.md5 not in (None, md5):
        raise DataError(
            f"{path} is damaged or not the official file: its md5 is {md5}, expected {official.md5}; "
            f"delete it and {way_out}"
        )
    return content


def md5_of(content: bytes) -> str:
    """The md5 of some bytes, in hexadecimal."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def is_there(root: Path, name: str) -> bool:
    """Whether the official file `name` exists below the data root with the right md5."""
    try:
        read(root / name, FILES[name], "")
    except DataError:
        return False
    return True


def fetch(root: Path, name: str) -> None:
    """Downloads the official file `name` to its place below the data root, unless it is already there.

    Raises:
        DataError: no address gives the official file, or it cannot be written.
    """
    if is_there(root, name):
        return
    official, path, faults = FILES[name], root / name, []
    for address in official.addresses:
        try:
            content = _get(address, official.limit)
        except urllib.error.HTTPError as error:
            error.close()
            faults.append(f"{address}: HTTP status {error.code}")
        except (OSError, http.client.HTTPException, ValueError, DataError) as error:
            reason = getattr(error, "reason", None) or error
            faults.append(f"{address}: {' '.join(str(reason).split())[:200] or type(error).__name__}")
        else:
            found = md5_of(content)
            if found == official.md5:
                _write(path, content)
                return
            faults.append(f"{address}: {len(content):,} bytes with md5 {found}, not the official file")
    raise DataError(
        f"{path} could not be downloaded ({'; '.join(faults)}); try again, or put the file there yourself "
        f"(md5 {official.md5})"
    )


def fetch_and_unpack(root: Path, archive: str, members: Collection[str]) -> None:
    """Unpacks members of an official archive, which is downloaded if it is not in the data root.

    Args:
        root: the data root.
        archive: name of the .tar.gz file.
        members: paths of the members, which are the same in the archive and below the data root.

    Raises:
        DataError: the archive cannot be downloaded, or is not the official one.
    """
    if all(is_there(root, name) for name in members):
        return
    fetch(root, archive)
    unpack(root / archive, root, members)


def unpack(archive: Path, root: Path, members: Collection[str]) -> None:
    """Writes members of an archive below `root` after checking the md5 of each; other members are not written.

    Raises:
        DataError: a member is missing or not the official one, or the archive holds something unexpected.
    """
    missing = set(members)
    limit = sum(FILES[name].limit for name in members) + _SLACK
    try:
        with opened(archive) as file, gzip.GzipFile(fileobj=file) as plain, _opened(_Capped(plain, limit)) as tar:
            for member in tar:
                name = _checked_name(member)
                if name not in missing:
                    continue
                if not member.isreg() or member.size > FILES[name].limit:
                    raise DataError(f"its member {name[:80]!a} is not the official file")
                # extractfile gives None only for members that are not regular files.
                content = tar.extractfile(member).read()  # type: ignore[union-attr]
                if md5_of(content) != FILES[name].md5:
                    raise DataError(f"its member {name[:80]!a} is not the official file")
                _write(root / name, content)
                missing.discard(name)
    except _WriteError:
        raise
    except Exception as error:
        # A damaged file can make tarfile and gzip raise anything: TarError, EOFError, zlib.error, RecursionError, …
        raise DataError(f"{archive} was refused: {' '.join(str(error).split())}; delete it and try again") from error
    if missing:
        raise DataError(f"{archive} was refused: it lacks {', '.join(sorted(missing))}; delete it and try again")


def _opened(stream: Any) -> tarfile.TarFile:
    """Opens an archive as a stream, which is read once from start to end."""
    return tarfile.open(fileobj=stream, mode="r|", tarinfo=_ShortHeader)


class _ShortHeader(tarfile.TarInfo):
    """The header of a member; long names and other additions to it are read whole, so they have to be short."""

    @classmethod
    def frombuf(cls, *args: Any, **options: Any) -> Self:
        """Reads a header.

        Raises:
            DataError: it announces an addition of more than `_SLACK` bytes.
        """
        found = super().frombuf(*args, **options)
        if found.size > _SLACK and found.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise DataError(f"it unpacks to far more than the official archive: a header of {found.size:,} bytes")
        return found


class _WriteError(DataError):
    """A member cannot be written to the disk, although the archive is right."""


def _checked_name(member: tarfile.TarInfo) -> str:
    """The path of a member; an error unless it is a plain file or folder below the place of unpacking."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"its member {member.name[:80]!a} leads out of the data root")
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise DataError(f"its member {member.name[:80]!a} is a link or a device, not a plain file")
    return str(path)


class _Capped:
    """A stream that raises an error when more bytes are read than allowed."""

    def __init__(self, file: IO[bytes] | gzip.GzipFile, limit: int) -> None:
        self._file = file
        self._left = limit

    def read(self, size: int) -> bytes:
        piece = self._file.read(size)
        self._left -= len(piece)
        if self._left < 0:
            raise DataError("it unpacks to far more than the official archive")
        return piece


class _HttpOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirects of a server to http and https addresses only."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        scheme = urlsplit(newurl).scheme
        if scheme not in ("http", "https"):
            fp.close()
            raise urllib.error.URLError(f"redirected to a {scheme!a} address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _get(address: str, limit: int) -> bytes:
    """Downloads the content of an http or https address."""
    # build_opener is not used, because it would also open ftp, file and data addresses.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _HttpOnly(),
    ):
        opener.add_handler(handler)
    ticker, content = Ticker(f"downloading {address}"), io.BytesIO()
    with opener.open(urllib.request.Request(address, headers={"User-Agent": "ddfw"}), timeout=_TIMEOUT_S) as answer:
        length = str(answer.headers.get("Content-Length", ""))
        total = f" of {int(length) / 1e6:.0f}" if length.isdecimal() and len(length) < 16 else ""
        while piece := answer.read(_PIECE):
            content.write(piece)
            if content.tell() > limit:
                raise DataError("the answer is larger than the official file")
            ticker.tell(f"{content.tell() / 1e6:.0f}{total} MB")
    return content.getvalue()


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(path, content)
    except OSError as error:
        raise _WriteError(f"{path} cannot be written: {error.strerror or error}") from error
