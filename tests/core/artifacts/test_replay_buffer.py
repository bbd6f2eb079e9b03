"""Foreign experts are read exactly or refused with the place and the reason; nothing in their files is executed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ddfw.artifacts import atomic
from ddfw.artifacts.replay_buffer import ReplayBuffer, buffer_files
from ddfw.contracts.dataset import ImageSpec
from ddfw.engine.inner import Network, build_module
from ddfw.errors import DataError
from ddfw_plugins.models.convnet import ConvNet

GOLDEN = Path(__file__).parents[2] / "golden" / "replay_buffer"

#: Reads every expert of a file and prints by how many MB the peak of the resident memory grew. VmHWM is this process's
#: own; ru_maxrss starts at what its parent had.
READER = """
import sys
from pathlib import Path

import torch
from ddfw.artifacts.replay_buffer import ReplayBuffer
from ddfw.engine.inner import Network

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024

tiny = ReplayBuffer(Path(sys.argv[1]), Network(torch.nn.Linear(3, 2)))
assert tiny.expert(1).shape == (3, 8)
before = peak()
large = ReplayBuffer(Path(sys.argv[2]), Network(torch.nn.Linear(299, 500)))
assert (large.num_experts, large.num_epochs) == (10, 50)
for number in range(10):
    checkpoints = large.expert(number)
    assert checkpoints.shape == (51, 150_000) and float(checkpoints[7, 3]) == number + 0.5
    del checkpoints
print(peak() - before)
"""


def make(experts: int = 2, snapshots: int = 3) -> list[list[list[Tensor]]]:
    """The content of a file for the conftest's network."""
    rng = torch.Generator().manual_seed(1)
    return [
        [[torch.randn(2, 3, generator=rng), torch.randn(2, generator=rng)] for _ in range(snapshots)]
        for _ in range(experts)
    ]


def flat(content: list[list[list[Tensor]]]) -> Tensor:
    return torch.stack([torch.stack([torch.cat([t.flatten() for t in s]) for s in e]) for e in content])


@pytest.fixture
def saved(tmp_path) -> Callable[[Any], Path]:
    """Writes a content as torch does."""

    def write(content: Any, name: str = "replay_buffer_0.pt") -> Path:
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture(scope="module")
def convnet() -> Network:
    """The golden files' network."""
    return Network(build_module(ConvNet(depth=2, width=8), ImageSpec(channels=1, height=8, width=8, num_classes=10)))


def read(path: Path, network: Network) -> Tensor:
    """All checkpoints [E, K+1, P]."""
    buffer = ReplayBuffer(path, network)
    return torch.stack([buffer.expert(number) for number in range(buffer.num_experts)])


def refused(path: Path, network: Network, *words: str) -> str:
    with pytest.raises(DataError) as caught:
        read(path, network)
    text = str(caught.value)
    assert len(text.splitlines()) == 1 and text.isprintable() and text.startswith(str(path)), text
    assert "weights_only` " not in text and "False" not in text, text
    for word in words:
        assert word in text, text
    return text


def test_the_golden_buffer_is_read_bit_for_bit(convnet, golden):
    """Broken: students would be matched against other weights than the ones in the file."""
    expected = golden("replay_buffer/good_expected")
    buffer = ReplayBuffer(GOLDEN / "good.pt", convnet)
    assert (buffer.num_experts, buffer.num_epochs) == (2, 5)
    for number in range(2):
        checkpoints = buffer.expert(number)
        assert checkpoints.dtype == torch.float32 and checkpoints.is_contiguous()
        assert np.array_equal(checkpoints.numpy().view(np.uint32), expected["flat_params"][number].view(np.uint32))
        steps = checkpoints.double().diff(dim=0).split(convnet.sizes, dim=1)
        norms = torch.stack([step.norm(dim=1) for step in steps], dim=1)
        torch.testing.assert_close(
            norms, torch.from_numpy(expected["per_tensor_step_norms"][number]), rtol=1e-9, atol=0
        )


def test_the_golden_network_is_the_one_the_files_were_written_for(convnet, golden):
    """Broken: our ConvNet's parameters would come in another order or shape than the original's."""
    shapes = [tuple(int(n) for n in row if n) for row in golden("replay_buffer/good_expected")["param_shapes"]]
    assert list(convnet.shapes) == shapes


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("aliased", ["expert 0, snapshot 1, tensor 0 (0.weight)", "without a GPU", "p.detach().cpu().clone()"]),
        ("truncated", ["damaged or was not written to its end", "copy it or write it again"]),
        ("wrong_shape", ["expert 1, snapshot 3, tensor 8 (9.weight)", "[32, 10]", "[10, 32]", "as many elements"]),
        ("missing_tensor", ["expert 0, snapshot 2 has 9 tensors", "network has 10", "tensor 9 (9.bias)"]),
        ("nan_snapshot", ["expert 0, snapshot 2, tensor 4 (4.weight)", "1 of 576", "nan", "flat index 7"]),
        ("malicious_zip", ["objects other than tensors", "nothing in it was executed"]),
        ("malicious_rawpickle", ["not a zip archive", "since version 1.6"]),
    ],
)
def test_bad_golden_files_are_refused_with_place_and_reason_and_execute_nothing(
    convnet, tmp_path, monkeypatch, name, words
):
    """Broken: a bad buffer would be used, its refusal would not help, or its code would run."""
    canary = tmp_path / "canary"
    monkeypatch.setenv("GOLDEN_CANARY_PATH", str(canary))
    refused(GOLDEN / f"{name}.pt", convnet, *words)
    assert not canary.exists()


@pytest.mark.parametrize("change", ["expand", "transpose", "views of one", "parameters", "attributes"])
def test_tensors_that_are_stored_in_other_ways_are_read_right(saved, network, change):
    """Broken: strides, offsets or attributes in a file would change what is read."""
    content = make()
    if change == "expand":
        content[1][2][0] = torch.randn(3).expand(2, 3)
    elif change == "transpose":
        content[1][2][0] = torch.randn(3, 2).t()
    elif change == "views of one":
        rows = torch.randn(6, 8)
        content = [[[r[:6].view(2, 3), r[6:]] for r in rows[e : e + 3]] for e in (0, 3)]
    elif change == "parameters":
        content[0][0] = [nn.Parameter(t) for t in content[0][0]]
    else:
        for name in ("data_ptr", "detach", "numel", "flatten", "copy_"):
            setattr(content[0][1][0], name, 5)
    expected = flat(make()) if change == "attributes" else flat(content).detach()
    found = read(saved(content), network)
    assert torch.equal(found, expected) and not found.requires_grad


def test_each_call_gives_a_copy_of_its_own(saved, network):
    """Broken: a caller that works in place would change the expert for all others, or the file."""
    path = saved(make())
    digest = atomic.file_sha256(path)
    buffer = ReplayBuffer(path, network)
    buffer.expert(0).fill_(7)
    assert torch.equal(buffer.expert(0), flat(make())[0])
    assert buffer.sha256 == atomic.file_sha256(path) == digest


@pytest.mark.parametrize("number", [-1, 2])
def test_an_expert_that_does_not_exist_is_an_index_error(saved, network, number):
    """Broken: a negative number would give another expert without a word."""
    with pytest.raises(IndexError, match="experts 0 to 1"):
        ReplayBuffer(saved(make()), network).expert(number)


def put(content: list[Any], value: Any, *place: int) -> Any:
    """The same content with another value at a place; with no place, the value."""
    if not place:
        return value
    content[place[0]] = put(content[place[0]], value, *place[1:])
    return content


@pytest.mark.parametrize(
    ("value", "place", "words"),
    [
        ({"weight": torch.zeros(2)}, (), ["content is a dict", "list of experts"]),
        ([], (), ["no experts"]),
        (torch.zeros(2, 3), (), ["content is a Tensor"]),
        (torch.zeros(2, 3), (1,), ["expert 1 is a Tensor"]),
        ([], (0,), ["expert 0 has 0 snapshots", "at least 2"]),
        ([[torch.zeros(2, 3), torch.zeros(2)]], (1,), ["expert 1 has 1 snapshot,", "at least 2"]),
        (make(1, 4)[0], (1,), ["expert 1 has 4 snapshots, expert 0 has 3"]),
        (None, (1, 2), ["expert 1, snapshot 2 is a NoneType"]),
        ([], (1, 2), ["expert 1, snapshot 2 has 0 tensors, the network has 2", "tensor 0 (weight)"]),
        ([torch.zeros(2)], (0, 0), ["expert 0, snapshot 0 has 1 tensor,", "tensor 0 (weight)"]),
        ([torch.zeros(2, 3), torch.zeros(2), torch.zeros(1)], (1, 2), ["3 tensors, the network has 2", "tensor 2;"]),
        ("text", (1, 2, 1), ["expert 1, snapshot 2, tensor 1 (bias) is a str"]),
        (torch.zeros(3, 2), (0, 1, 0), ["tensor 0 (weight)", "[3, 2]", "[2, 3]", "as many elements", "write it again"]),
        (torch.zeros(2, 1), (0, 1, 1), ["tensor 1 (bias)", "[2, 1]", "[2]", "as many elements"]),
        (torch.zeros(4), (0, 1, 1), ["tensor 1 (bias)", "[4]", "[2]", "4 elements instead of 2"]),
        (torch.tensor(0.0), (0, 1, 1), ["tensor 1 (bias)", "[]", "1 elements instead of 2"]),
        (torch.zeros(2).double(), (0, 1, 1), ["tensor 1 (bias) is torch.float64", "torch.float32"]),
        (torch.zeros(2).half(), (0, 0, 1), ["expert 0, snapshot 0, tensor 1 (bias) is torch.float16"]),
        (torch.zeros(2, 3).to_sparse(), (0, 1, 0), ["tensor 0 (weight) is torch.sparse_coo"]),
        (torch.zeros(2, 3, device="meta"), (0, 1, 0), ["tensor 0 (weight)", "meta"]),
        (torch.tensor([1.0, float("nan")]), (1, 0, 1), ["expert 1, snapshot 0, tensor 1 (bias)", "1 of 2", "index 1"]),
        (torch.full((2, 3), -torch.inf), (1, 2, 0), ["expert 1, snapshot 2, tensor 0 (weight)", "6 of 6", "-inf"]),
    ],
)
def test_contents_that_are_no_replay_buffer_are_refused_with_the_place(saved, network, value, place, words):
    """Broken: half a buffer, other types or values that are not finite would get into a run."""
    refused(saved(put(make(), value, *place)), network, *words)


def test_quantised_and_csr_tensors_are_refused_without_a_warning(saved, network):
    """Broken: such tensors would be read as something else, or torch's notices would reach users."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.quantize_per_tensor(torch.zeros(2, 3), 0.1, 0, torch.qint8)
        first = saved(put(make(), quantised, 0, 1, 0), "a.pt")
        second = saved(put(make(), torch.eye(2, 3).to_sparse_csr(), 0, 1, 0), "b.pt")
    refused(first, network, "tensor 0 (weight) is quantised")
    refused(second, network, "tensor 0 (weight) is torch.sparse_csr")


def test_a_list_that_holds_itself_is_refused(saved, network):
    """Broken: a reader that follows lists would never come back."""
    content: list[Any] = []
    content += [content, content]
    refused(saved(content), network, "tensor 0 (weight) is a list")


@pytest.mark.parametrize("other", [ConvNet(depth=3, width=8), ConvNet(depth=1, width=8, norm="none")])
def test_a_buffer_of_another_depth_says_how_many_tensors_there_are(other):
    """Broken: users would look for damage where only an option is wrong."""
    network = Network(build_module(other, ImageSpec(channels=1, height=8, width=8, num_classes=10)))
    text = refused(GOLDEN / "good.pt", network, "another network", "depth, width and norm")
    assert f"each snapshot has 10 tensors, the network has {len(network.names)}" in text


def test_a_buffer_of_another_width_says_which_shapes_differ():
    """Broken: users would look for damage where only an option is wrong."""
    network = Network(build_module(ConvNet(depth=2, width=4), ImageSpec(channels=1, height=8, width=8, num_classes=10)))
    words = ["another network", "each snapshot, tensor 0 (0.weight) has shape [8, 1, 3, 3]", "[4, 1, 3, 3]", "width"]
    refused(GOLDEN / "good.pt", network, *words)


def test_snapshots_that_share_memory_in_part_or_between_experts_are_refused(saved, network):
    """Broken: an expert would hold weights of another time or another expert."""
    content = make()
    content[1][2][1] = content[1][0][1]
    refused(saved(content), network, "expert 1, snapshot 2, tensor 1 (bias)", "expert 1, snapshot 0", "clone()")
    content = make()
    content[1] = content[0]
    refused(saved(content), network, "expert 1, snapshot 0, tensor 0 (weight)", "expert 0, snapshot 0")


def test_an_expert_that_never_moves_is_refused_and_a_tensor_that_does_not_is_not(saved, network):
    """Broken: students would follow an expert that learned nothing, or biases before a normalisation be an error."""
    content = make()
    for snapshot in content[1]:
        snapshot[1] = torch.ones(2)
    path = saved(content)
    assert torch.equal(read(path, network), flat(content))
    content[1] = [[torch.ones(2, 3), torch.ones(2)] for _ in range(3)]
    refused(saved(content), network, "expert 1 stands still", "3 snapshots", "clone()")
    buffer = ReplayBuffer(path, network)
    assert torch.equal(buffer.expert(0), flat(content)[0])


def test_a_file_of_the_old_format_says_how_to_convert_it_and_is_readable_then(tmp_path, network):
    """Broken: owners of old buffers would not know what to do, or be told something that does not work."""
    old, new = tmp_path / "old.pt", tmp_path / "new.pt"
    torch.save(make(), old, _use_new_zipfile_serialization=False)
    refused(old, network, "older", "torch.save(torch.load(old, weights_only=True), new)")
    torch.save(torch.load(old, weights_only=True), new)
    assert torch.equal(read(new, network), flat(make()))


def test_a_compiled_module_is_refused_without_a_warning(tmp_path, network):
    """Broken: torch would run the archive's code, or print its advice."""
    path = tmp_path / "module.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(3, 2)).save(path)
    refused(path, network)
    rewritten(path, zipfile.ZIP_STORED)
    refused(path, network, "damaged or not a replay buffer")


def rewritten(path: Path, compression: int, change: Callable[[list[zipfile.ZipInfo]], None] = lambda m: None) -> None:
    """Writes the archive again in another way, with a chance to spoil its directory."""
    with zipfile.ZipFile(path) as archive:
        members = [(m.filename, archive.read(m)) for m in archive.infolist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
        change(archive.infolist())


def test_archives_that_torch_does_not_write_are_refused(saved, network):
    """Broken: a small file could unfold to any size."""

    def overlap(members: list[zipfile.ZipInfo]) -> None:
        members[-1].header_offset = members[0].header_offset

    def encrypt(members: list[zipfile.ZipInfo]) -> None:
        members[1].flag_bits |= 1

    for compression, change, word in [
        (zipfile.ZIP_DEFLATED, lambda m: None, "compressed"),
        (zipfile.ZIP_STORED, overlap, "overlapping"),
        (zipfile.ZIP_STORED, encrypt, "encrypted"),
    ]:
        path = saved(make())
        rewritten(path, compression, change)
        refused(path, network, word)


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), b"\x80\x02", b"text\n" * 99])
def test_files_of_other_kinds_are_data_errors(tmp_path, network, content):
    """Broken: a wrong path would end in a traceback."""
    path = tmp_path / "replay_buffer_0.pt"
    path.write_bytes(content)
    refused(path, network)


def test_a_damaged_weight_is_noticed_by_its_checksum(saved, network):
    """Broken: torch does not compare checksums when it maps a file, so that damaged weights would be used."""
    path = saved(make())
    data = bytearray(path.read_bytes())
    data[data.index(make()[1][1][0].numpy().tobytes())] ^= 1
    path.write_bytes(data)
    refused(path, network, "damaged", "data/8", "checksum")


def damaged(data: bytes, rng: random.Random, first: int, last: int) -> bytes:
    """One byte changed, or everything from a place on cut off."""
    place = rng.randrange(first, last)
    if rng.random() < 0.25:
        return data[:place]
    return data[:place] + bytes([data[place] ^ rng.randrange(1, 256)]) + data[place + 1 :]


@pytest.mark.parametrize("checksums", [True, False])
def test_damage_anywhere_is_a_data_error_or_does_no_harm(convnet, golden, tmp_path, monkeypatch, checksums):
    """Broken: a damaged file would end in a traceback, or give other weights than were written."""
    data, path, rng = (GOLDEN / "good.pt").read_bytes(), tmp_path / "replay_buffer_0.pt", random.Random(5)
    expected = torch.from_numpy(golden("replay_buffer/good_expected")["flat_params"])
    first, last = (0, len(data)) if checksums else (0, 9000)
    if not checksums:
        # What torch makes of a damaged list of tensors: the first 9000 bytes hold little else.
        monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda self: None)
    errors = 0
    for _ in range(200):
        path.write_bytes(damaged(data, rng, first, last))
        try:
            found = read(path, convnet)
        except DataError as error:
            errors += 1
            assert len(str(error).splitlines()) == 1 and str(error).isprintable(), str(error)
        else:
            assert found.isfinite().all() and found.shape[1:] == expected.shape[1:]
            assert not checksums or torch.equal(found, expected)
    assert errors > 100


def test_a_file_that_changes_while_it_is_open_is_noticed(saved, network):
    """Broken: an expert of another file would be read, unchecked, as one of this."""
    path = saved(make())
    buffer = ReplayBuffer(path, network)
    saved(make(1, 3))
    with pytest.raises(DataError, match="was changed"):
        buffer.expert(1)
    path.unlink()
    with pytest.raises(DataError, match="is missing"):
        buffer.expert(1)


def test_a_folder_gives_its_buffers_in_the_order_of_their_numbers(tmp_path):
    """Broken: buffer 10 would come before buffer 2, and the same seed would pick other experts."""
    for number in (10, 0, 9, 2, 1):
        (tmp_path / f"replay_buffer_{number}.pt").touch()
    for name in ("replay_buffer_x.pt", "replay_buffer_3.pt.tmp", "old_replay_buffer_4.pt", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "replay_buffer_5.pt").mkdir()
    assert [p.name for p in buffer_files(tmp_path)] == [f"replay_buffer_{n}.pt" for n in (0, 1, 2, 9, 10)]
    assert buffer_files(tmp_path / "notes.txt") == (tmp_path / "notes.txt",)


def test_paths_without_buffers_are_data_errors(tmp_path, network):
    """Broken: a mistyped path would end in a traceback or in a run without experts."""
    with pytest.raises(DataError, match="is missing"):
        buffer_files(tmp_path / "none")
    with pytest.raises(DataError, match=r"no replay_buffer_N\.pt"):
        buffer_files(tmp_path)
    refused(tmp_path / "none.pt", network, "is missing")
    refused(tmp_path, network, "is not a file")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of the memory is read from /proc")
def test_a_large_file_is_read_in_a_fraction_of_its_size(saved, tmp_path):
    """Broken: a 650 MB buffer would fill the memory of a small machine."""
    tiny = saved(make(), "tiny.pt")
    large = saved(
        [[[torch.full((500, 299), e + 0.5), torch.full((500,), float(s))] for s in range(51)] for e in range(10)],
        "large.pt",
    )
    try:
        assert large.stat().st_size > 300e6
        done = subprocess.run(
            [sys.executable, "-c", READER, str(tiny), str(large)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=120,
        )
    finally:
        large.unlink()
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 100


def test_snapshots_that_share_a_few_values_take_no_memory_of_many(saved):
    """Broken: a small file whose snapshots are windows on the same values would fill the memory."""
    network = Network(nn.Linear(300, 100))
    flat = torch.rand(network.num_parameters + 50)

    def window(start):
        weight, bias = flat[start:].split([30_000, 100, 50 - start])[:2]
        return [weight.view(100, 300), bias]

    path = saved([[window(start) for start in range(50)]])
    assert path.stat().st_size < 200_000
    refused(path, network, "has fewer bytes than the 6,020,000 of its snapshots", ".clone()")


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (b"\x80\x02c__builtin__\nbytearray\nJ\x00\x00\x00\x7f\x85R.", "objects other than tensors (bytearray)"),
        (b"\x80\x02" + b"(" * 16_000_000 + b".", "describes its 2 members in more than 66,560 bytes"),
    ],
    ids=["memory of any size", "a step of a byte that takes sixty"],
)
def test_a_program_that_asks_for_memory_is_refused_before_it_runs(tmp_path, network, program, words):
    """Broken: a kilobyte could ask the reader of tensors for two gigabytes."""
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/version", b"3\n")
    refused(tmp_path / "x.pt", network, words)
