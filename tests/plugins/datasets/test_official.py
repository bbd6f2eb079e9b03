"""Fetching and unpacking official files: from a server on this machine, and from hostile archives."""

from __future__ import annotations

import gzip
import http.server
import io
import os
import tarfile
import threading

import pytest
from attrs import evolve

from ddfw import AbstractDataset, DataError, OptionError
from ddfw_plugins.datasets import _official
from ddfw_plugins.datasets._official import FILES
from ddfw_plugins.datasets.cifar import Cifar10, Cifar100
from ddfw_plugins.datasets.imagefolder import ImageFolder
from ddfw_plugins.datasets.mnist import FashionMnist, Mnist
from ddfw_plugins.datasets.svhn import Svhn

ARCHIVE, FOLDER = "cifar-10-python.tar.gz", "cifar-10-batches-py"
MEMBERS = [name for name in FILES if name.startswith(f"{FOLDER}/")]


@pytest.fixture
def server(monkeypatch):
    """A web server on this machine that is taken for every official address; answers are put in `pages`."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            status, headers, body = pages.get(self.path, (404, {}, b""))
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    pages, asked = {}, []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.pages, running.asked = pages, asked
        running.at = f"http://127.0.0.1:{running.server_port}"
        for name, official in list(FILES.items()):
            if official.addresses:
                address = f"{running.at}/{name.rsplit('/', 1)[-1]}"
                monkeypatch.setitem(FILES, name, evolve(official, addresses=(address,)))
        yield running
        running.shutdown()
        thread.join()


def files_below(root):
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() or p.is_symlink())


def packed(root, official_files, monkeypatch):
    """The archive of a tiny CIFAR-10, whose folder is taken away."""
    archive = official_files.write_archive(root, FOLDER)
    official_files.trust(root, monkeypatch)
    for name in MEMBERS:
        (root / name).unlink()
    (root / FOLDER).rmdir()
    return archive


def test_addresses_and_checksums_are_torchvision_s():
    """Broken: files would be fetched from elsewhere, or other files would pass for the official ones."""
    from torchvision import datasets

    known = {}
    for cls in (datasets.CIFAR10, datasets.CIFAR100):
        known[cls.filename] = cls.tgz_md5, (cls.url,)
        entries = [*cls.train_list, *cls.test_list, (cls.meta["filename"], cls.meta["md5"])]
        known.update({f"{cls.base_folder}/{name}": (md5, ()) for name, md5 in entries})
    for cls in (datasets.MNIST, datasets.FashionMNIST):
        for name, md5 in cls.resources:
            known[f"{cls.__name__}/raw/{name}"] = md5, tuple(mirror + name for mirror in cls.mirrors)
    for part in ("train", "test"):
        url, name, md5 = datasets.SVHN.split_list[part]
        known[name] = md5, (url,)
    ours = {name: (o.md5, o.addresses) for name, o in FILES.items() if not name.endswith("-ubyte")}
    assert ours == known


@pytest.mark.parametrize(
    ("cls", "names"),
    [
        (Mnist, [n for n in FILES if n.startswith("MNIST") and n.endswith(".gz")]),
        (FashionMnist, [n for n in FILES if n.startswith("Fashion") and n.endswith(".gz")]),
        (Svhn, ["train_32x32.mat", "test_32x32.mat"]),
    ],
)
def test_files_are_fetched_once_and_only_what_is_missing(tiny, server, cls, names):
    """Broken: --download would fetch nothing, fetch again what is there, or leave a damaged file."""
    root = tiny(cls.name)
    expected = cls().load(root).test.read().images
    for name in names:
        server.pages["/" + name.rsplit("/", 1)[-1]] = 200, {}, (root / name).read_bytes()
    (root / names[0]).unlink()
    (root / names[1]).write_bytes(b"damaged")
    before = files_below(root)
    cls().download(root)
    assert sorted(server.asked) == sorted("/" + n.rsplit("/", 1)[-1] for n in names[:2])
    assert files_below(root) == sorted([*before, names[0]])
    assert (cls().load(root).test.read().images == expected).all()
    cls().download(root)
    assert len(server.asked) == 2
    cls().download(root / "new")
    assert (cls().load(root / "new").test.read().images == expected).all()


@pytest.mark.parametrize(("cls", "folder"), [(Cifar10, FOLDER), (Cifar100, "cifar-100-python")])
def test_an_archive_is_fetched_and_unpacked(tiny, server, official_files, monkeypatch, tmp_path, cls, folder):
    """Broken: --download would not lead to a data set that loads."""
    root, new = tiny(cls.name), tmp_path / "new"
    archive = official_files.write_archive(root, folder)
    official_files.trust(root, monkeypatch)
    server.pages[f"/{archive.name}"] = 200, {}, archive.read_bytes()
    cls().download(root)
    assert server.asked == []
    cls().download(new)
    assert server.asked == [f"/{archive.name}"]
    assert (cls().load(new).test.read().images == cls().load(root).test.read().images).all()
    (new / folder).joinpath(MEMBERS[-1].rsplit("/", 1)[-1] if cls is Cifar10 else "meta").unlink()
    cls().download(new)
    assert len(server.asked) == 1 and files_below(new) == files_below(root)


def test_an_archive_that_lies_there_needs_no_network(tiny, server, official_files, monkeypatch):
    """Broken: a machine without a network could not use an archive that was carried to it."""
    root = tiny("cifar10")
    packed(root, official_files, monkeypatch)
    Cifar10().download(root)
    assert server.asked == [] and Cifar10().load(root).spec.num_classes == 10


def test_a_damaged_archive_is_replaced_by_the_official_one(tiny, server, official_files, monkeypatch):
    """Broken: half an archive would stand in the way for ever."""
    root = tiny("cifar10")
    archive = packed(root, official_files, monkeypatch)
    server.pages[f"/{ARCHIVE}"] = 200, {}, archive.read_bytes()
    archive.write_bytes(archive.read_bytes()[:-50])
    Cifar10().download(root)
    assert len(server.asked) == 1 and Cifar10().load(root).spec.num_classes == 10


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((404, {}, b"gone"), "HTTP status 404"),
        ((500, {}, b""), "HTTP status 500"),
        ((200, {}, b"<html>log in</html>"), "19 bytes with md5 .*, not the official file"),
        ((200, {"Content-Length": "999"}, b"cut off"), "7 bytes with md5|cut|read|Incomplete"),
        ((200, {}, b"x" * 5000), "larger than the official file"),
        ((302, {"Location": "file:///etc/hostname"}, b""), "file|HTTP status 302"),
        ((302, {"Location": "ftp://127.0.0.1/x"}, b""), "redirected to a 'ftp' address"),
        ((302, {"Location": "/train_32x32.mat"}, b""), "HTTP status 302"),
        ((200, {"Content-Encoding": "gzip"}, gzip.compress(b"x")), "not the official file"),
    ],
)
def test_an_answer_that_is_not_the_file_is_refused_and_nothing_stays(tmp_path, server, monkeypatch, answer, message):
    """Broken: a login page, or a file of this machine, would be taken for data."""
    name = "train_32x32.mat"
    monkeypatch.setitem(FILES, name, evolve(FILES[name], limit=4000))
    server.pages[f"/{name}"] = answer
    with pytest.raises(DataError, match=message) as caught:
        Svhn().download(tmp_path)
    assert str(tmp_path / name) in str(caught.value) and FILES[name].md5 in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1 and files_below(tmp_path) == []


def test_mirrors_are_tried_in_turn(tmp_path, server, monkeypatch):
    """Broken: one dead server would be the end."""
    name, content = "train_32x32.mat", b"the file"
    closed = "http://127.0.0.1:9/x"
    addresses = (closed, "file:///etc/hostname", f"{server.at}/dead", f"{server.at}/alive")
    monkeypatch.setitem(FILES, name, evolve(FILES[name], md5=_official.md5_of(content), addresses=addresses))
    server.pages["/alive"] = 200, {}, content
    _official.fetch(tmp_path, name)
    assert (tmp_path / name).read_bytes() == content and server.asked == ["/dead", "/alive"]
    (tmp_path / name).unlink()
    server.pages.clear()
    with pytest.raises(DataError) as caught:
        _official.fetch(tmp_path, name)
    assert all(address in str(caught.value) for address in addresses)


def test_a_place_that_cannot_be_written_is_a_data_error(tmp_path, server, monkeypatch):
    """Broken: a data root that is a file would be an internal error."""
    name = "train_32x32.mat"
    monkeypatch.setitem(FILES, name, evolve(FILES[name], md5=_official.md5_of(b"x")))
    server.pages[f"/{name}"] = 200, {}, b"x"
    (tmp_path / "root").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be written"):
        _official.fetch(tmp_path / "root", name)
    (tmp_path / "other" / name).mkdir(parents=True)
    with pytest.raises(DataError, match="cannot be written"):
        _official.fetch(tmp_path / "other", name)


def member(name, kind=tarfile.REGTYPE, content=b"", **fields):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, io.BytesIO(content) if content else None


HOSTILE = {
    "above": (member("../escaped", content=b"x"), "leads out of the data root"),
    "above within": (member(f"{FOLDER}/../../escaped", content=b"x"), "leads out of the data root"),
    "absolute": (member("/escaped", content=b"x"), "leads out of the data root"),
    "symlink": (member(f"{FOLDER}/data_batch_1", tarfile.SYMTYPE, linkname="/etc/hostname"), "a link or a device"),
    "hardlink": (member(f"{FOLDER}/data_batch_1", tarfile.LNKTYPE, linkname="../escaped"), "a link or a device"),
    "device": (member(f"{FOLDER}/null", tarfile.CHRTYPE, devmajor=1, devminor=3), "a link or a device"),
    "pipe": (member(f"{FOLDER}/pipe", tarfile.FIFOTYPE), "a link or a device"),
    "bomb": (member("large", content=bytes(3 << 20)), "far more than the official archive"),
    "name bomb": (member("n" * (3 << 20)), "far more than the official archive"),
    "another file": (member(f"{FOLDER}/data_batch_1", content=b"x"), "'.*data_batch_1' is not the official file"),
    "large file": (member(f"{FOLDER}/data_batch_1", content=bytes(200_000)), "is not the official file"),
    "folder for a file": (member(f"{FOLDER}/data_batch_1", tarfile.DIRTYPE), "is not the official file"),
}


@pytest.fixture
def small(monkeypatch):
    """Limits of the size of tiny files."""
    for name in MEMBERS:
        monkeypatch.setitem(FILES, name, evolve(FILES[name], limit=100_000))


@pytest.mark.parametrize(("entry", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_archive_writes_nothing_of_its_own(tmp_path, small, entry, message):
    """Broken: an archive could write anywhere on the disk, fill it, or bring in files of the machine."""
    root = tmp_path / "root"
    root.mkdir()
    archive = tmp_path / ARCHIVE
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.addfile(*entry)
    with pytest.raises(DataError, match=message):
        _official.unpack(archive, root, MEMBERS)
    assert files_below(tmp_path) == [ARCHIVE]


def test_a_member_after_the_good_ones_is_looked_at_too(tiny, small, official_files, monkeypatch, tmp_path):
    """Broken: what comes last in an archive would not be checked."""
    root = tiny("cifar10")
    archive = official_files.write_archive(root, FOLDER, [HOSTILE["symlink"][0]])
    with pytest.raises(DataError, match="a link or a device"):
        _official.unpack(archive, tmp_path / "new", MEMBERS)
    assert set(files_below(tmp_path / "new")) <= set(MEMBERS)


def test_other_files_of_an_archive_are_passed_over(tiny, small, official_files, tmp_path):
    """Broken: the readme of the official archive would be refused, or written."""
    archive = official_files.write_archive(tiny("cifar10"), FOLDER, [member(f"{FOLDER}/readme.html", content=b"x")])
    _official.unpack(archive, tmp_path / "new", MEMBERS)
    assert files_below(tmp_path / "new") == sorted(MEMBERS)


def test_an_archive_that_lacks_a_file_is_refused(tiny, small, official_files, tmp_path):
    """Broken: a data set without its test images would seem to be complete."""
    root = tiny("cifar10")
    (root / FOLDER / "test_batch").unlink()
    archive = official_files.write_archive(root, FOLDER)
    with pytest.raises(DataError, match=f"it lacks {FOLDER}/test_batch"):
        _official.unpack(archive, tmp_path / "new", MEMBERS)


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "flipped", "a gzip bomb"])
def test_a_damaged_archive_is_refused_in_words(tiny, small, official_files, tmp_path, damage):
    """Broken: half a download would end in a traceback, or in all memory."""
    archive = official_files.write_archive(tiny("cifar10"), FOLDER)
    whole = archive.read_bytes()
    middle = len(whole) // 2
    archive.write_bytes(
        {
            "empty": b"",
            "text": b"<html>",
            "cut": whole[:middle],
            "flipped": whole[:middle] + bytes(64) + whole[middle + 64 :],
            "a gzip bomb": gzip.compress(b"\0" * 512 + b"x" * (4 << 20), 1),
        }[damage]
    )
    with pytest.raises(DataError, match="was refused") as caught:
        _official.unpack(archive, tmp_path / "new", MEMBERS)
    assert len(str(caught.value).splitlines()) == 1


def test_a_user_s_own_folder_has_nothing_to_download(tmp_path):
    """Broken: --download would seem to have worked."""
    assert ImageFolder.download is AbstractDataset.download
    with pytest.raises(OptionError, match="leave --download out"):
        ImageFolder(path="x").download(tmp_path)


def test_long_jobs_speak_on_standard_error_and_short_ones_do_not(capsys, monkeypatch):
    """Broken: a download of minutes would look like a hang, or a short one would fill the screen."""
    now = [0.0]
    monkeypatch.setattr(_official.time, "monotonic", lambda: now[0])
    ticker = _official.Ticker("reading x")
    for second in range(9):
        now[0] = float(second)
        ticker.tell(f"{second} of 9")
    assert capsys.readouterr() == ("", "reading x: 2 of 9\nreading x: 7 of 9\n")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_a_data_error(tmp_path):
    """Broken: another user's data root would be an internal error."""
    tmp_path.chmod(0)
    try:
        with pytest.raises(DataError, match="Permission denied"):
            Svhn().load(tmp_path)
    finally:
        tmp_path.chmod(0o700)
