"""A damaged or hostile file gives one clear error or the right data: never a crash, a hang or other data."""

import json
import os
import pathlib
import random
import struct
import time
import tracemalloc
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnet
from fnet import io

GOLDEN = pathlib.Path(__file__).parent / "golden" / "format1.safetensors"

TREE = {
    "enc": [{"weight": jnp.arange(6.0).reshape(2, 3), "bias": jnp.zeros(3, jnp.bfloat16)}, (1, "two", None, 2.5)],
    "flags": np.array([True, False, True]),
    "key": jax.random.key(7),
    "empty": np.zeros((0, 3), np.int16),
    "wide": np.array([1 + 2j]),
}


def file_of(header, data=b"", length=None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def own(structure, tensors=None, data=b"", **more) -> bytes:
    """A file that claims to be fnet's, with a right checksum of its header."""
    metadata = {"format": "fnet", "fnet.version": "1", "fnet.tree": json.dumps({"tree": structure})} | more
    metadata["fnet.header_crc32"] = "00000000"
    entries = {"__metadata__": metadata} | (tensors or {})
    metadata["fnet.header_crc32"] = f"{zlib.crc32(json.dumps(entries, separators=(',', ':')).encode()):08x}"
    return file_of(entries, data)


def test_the_helper_writes_files_that_load(tmp_path):
    (tmp_path / "a").write_bytes(file_of({"w": tensor()}, b"\0" * 8))
    assert io.load(tmp_path / "a")["w"].shape == (2,)
    (tmp_path / "a").write_bytes(own({"dict": {"w": "jax", "n": 3}}, {"w": tensor()}, b"\0" * 8))
    assert io.load(tmp_path / "a")["n"] == 3


EMPTY = tensor("U8", (0,), (0, 0))
FOREIGN = {
    "empty": (b"", "it has 0 bytes"),
    "short": (b"abc", "it has 3 bytes"),
    "huge length": (file_of({}, length=2**63), "says its header has 9223372036854775808 bytes"),
    "zip": (b"PK\x03\x04" + b"\0" * 40, "as torch.save and numpy.savez write; io.from_torch reads"),
    "pickle": (b"\x80\x04\x95" + b"\xff" * 40, "a pickle"),
    "not JSON": (file_of(b"{'a': 1}"), "not valid JSON"),
    "not an object": (file_of(b"[1, 2]"), "not valid JSON"),
    "UTF-16": (file_of('{"a": 1}'.encode("utf-16")), "not valid JSON"),
    "not UTF-8": (file_of(b'{"\xff": 1}'), "not valid JSON"),
    "duplicate names": (file_of(b'{"a": 1, "a": 1}'), "appears twice"),
    "deep JSON": (file_of(b'{"a":' + b"[" * 100000 + b"]" * 100000 + b"}"), "not valid JSON"),
    "huge number": (file_of(b'{"a":' + b"9" * 100000 + b"}"), "not valid JSON"),
    "metadata of numbers": (file_of({"__metadata__": {"a": 1}}), "must map strings to strings"),
    "metadata a list": (file_of({"__metadata__": []}), "must map strings to strings"),
    "entry a number": (file_of({"w": 3}), "'w' must have dtype"),
    "entry lacks": (file_of({"w": {"dtype": "F32", "shape": [2]}}), "'w' must have dtype"),
    "dtype unknown": (file_of({"w": tensor("F4")}, b"\0" * 8), "dtype 'F4', which is not supported"),
    "dtype a list": (file_of({"w": tensor(["F32"])}, b"\0" * 8), "is not supported"),
    "negative shape": (file_of({"w": tensor(shape=(-2,))}, b"\0" * 8), "'w' has the shape"),
    "fractional shape": (file_of({"w": tensor(shape=(2.0,))}, b"\0" * 8), "'w' has the shape"),
    "boolean shape": (file_of({"w": tensor("U8", (True,), (0, 1))}, b"\0"), "'w' has the shape"),
    "rank": (file_of({"w": tensor("U8", (1,) * 65, (0, 1))}, b"\0"), "at most 64"),
    "overflow": (file_of({"w": tensor(shape=(2**32, 2**32))}, b"\0" * 8), "but its data_offsets"),
    "numpy overflow": (file_of({"w": tensor(shape=(0, 2**62), offsets=(0, 0))}), "cannot have the shape"),
    "offsets three": (file_of({"w": tensor(offsets=(0, 8, 8))}, b"\0" * 8), "expected two"),
    "offsets reversed": (file_of({"w": tensor(offsets=(8, 0))}, b"\0" * 8), "but its data_offsets"),
    "offsets outside": (file_of({"w": tensor(offsets=(8, 16))}, b"\0" * 8), "a hole before 'w'"),
    "past the end": (file_of({"w": tensor(shape=(4,), offsets=(0, 16))}, b"\0" * 8), "describes 16 bytes"),
    "bytes left over": (file_of({"w": tensor()}, b"\0" * 9), "but 9 follow"),
    "hole": (file_of({"a": tensor(), "b": tensor(offsets=(9, 17))}, b"\0" * 17), "a hole before 'b'"),
    "overlap": (file_of({"a": tensor(), "b": tensor(offsets=(4, 12))}, b"\0" * 12), "an overlap before 'b'"),
    "same place": (file_of({"a": tensor(), "b": tensor()}, b"\0" * 8), "an overlap before 'b'"),
    "boolean bytes": (file_of({"w": tensor("BOOL", (2,), (0, 2))}, b"\1\2"), "'w' is boolean"),
    "surrogate": (file_of(b'{"\\ud800": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}'), "not valid Unicode"),
    "cannot nest": (file_of({"a": EMPTY, "a.b": EMPTY}), "cannot nest"),
    "cannot nest, reversed": (file_of({"a.b": EMPTY, "a": EMPTY}), "cannot nest"),
    "many dots": (file_of({"." * 5000: EMPTY}), "more than 100 dots"),
}  # fmt: skip

deep: object = None
for _ in range(150):
    deep = {"list": [deep]}
OWN = {
    "newer": (own(None, **{"fnet.version": "2"}), "written in version '2'"),
    "no structure": (file_of({"__metadata__": {"format": "fnet"}}), "lacks fnet.version, fnet.tree"),
    "structure not JSON": (own(None, **{"fnet.tree": "{"}), "fnet.tree is not valid JSON"),
    "deep": (own(deep), "more than 100 levels"),
    "unknown kind": (own({"dict": {"a": "torch"}}), "does not write, at 'a'"),
    "two kinds": (own({"dict": {}, "list": []}), "does not write"),
    "bad float": (own({"float": "x"}), "does not write"),
    "bad int": (own({"int": "0xzz"}), "does not write"),
    "a fraction": (own(1.5), "does not write"),
    "class a number": (own({"class": 3, "fields": {}, "static": {}}), "does not write"),
    "static array": (own({"class": "a", "fields": {}, "static": {"b": "jax"}}), "does not write"),
    "unnamed tensor": (own(None, {"w": tensor()}, b"\0" * 8), "disagree about w"),
    "missing tensor": (own({"dict": {"w": "jax"}}), "disagree about w"),
    "missing checksum": (own("jax", {"": tensor()}, b"\0" * 8, **{"fnet.crc32": "{}"}), "disagree about"),
    "wrong checksum": (own("jax", {"": tensor()}, b"\0" * 8, **{"fnet.crc32": '{"": 5}'}), "damaged"),
    "key of floats": (own({"key": "threefry2x32"}, {"": tensor()}, b"\0" * 8), "cannot be a PRNG key"),
    "key unknown": (own({"key": "dice"}, {"": tensor("U32")}, b"\0" * 8), "cannot be a PRNG key of 'dice'"),
    "key of wrong shape": (own({"key": "rbg"}, {"": tensor("U32")}, b"\0" * 8), "cannot be a PRNG key"),
    "not bytes": (own({"jax": "complex128"}, {"": tensor()}, b"\0" * 8), "cannot be complex128"),
    "not a scalar": (own("scalar", {"": tensor()}, b"\0" * 8), "cannot be a scalar"),
    "path to code": (own({"class": "os.system", "fields": {"a": 1}, "static": {}}), "os.system"),
}


@pytest.mark.parametrize("case", [*FOREIGN, *OWN])
def test_each_defect_has_its_message(tmp_path, case):
    data, words = (FOREIGN | OWN)[case]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(data)
    for mmap in (False,) if case == "wrong checksum" else (False, True):  # mapping reads no data
        with pytest.raises(io.FileError) as error:
            io.load(path, mmap=mmap)
        assert words in str(error.value) and str(error.value).startswith(str(path))
        assert len(str(error.value)) < 1000


def test_a_missing_file_stays_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        io.load(tmp_path / "none")


def test_a_name_like_a_path_is_only_a_name(tmp_path):
    (tmp_path / "a").write_bytes(file_of({"../../etc/passwd": tensor()}, b"\0" * 8))
    assert fnet.names(io.load(tmp_path / "a"))[0].endswith("/etc/passwd")


def loads_as(path, expected, **how) -> bool:
    """Whether the file loads as the tree; False for an error of fnet's; anything else fails the test."""
    try:
        tree = io.load(path, **how)
    except io.FileError:
        return False
    assert not fnet.diff(tree, expected) and jax.tree.structure(tree) == jax.tree.structure(expected)
    return True


def test_truncation_at_every_byte(tmp_path):
    path = tmp_path / "a"
    io.save(path, TREE)
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(io.FileError):
            io.load(path)
    path.write_bytes(data)
    assert loads_as(path, TREE)


def mutate(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    place, count = rng.randrange(len(out)), rng.choice([1, 2, 8, 64])
    if rng.random() < 0.7:  # the header is where a mutation does most
        place = rng.randrange(8 + struct.unpack_from("<Q", data)[0])
    match rng.randrange(8):
        case 0:
            out[place] ^= 1 << rng.randrange(8)
        case 1:
            out[place : place + count] = rng.randbytes(count)
        case 2:
            out[place : place + count] = b""
        case 3:
            out[place:place] = rng.randbytes(count)
        case 4:
            out[place : place + count] = bytes(count)
        case 5:
            other = rng.randrange(len(out))
            out[place : place + count] = out[other : other + count]
        case 6:
            out[:8] = struct.pack("<Q", rng.choice([0, 1, len(out), len(out) - 8, 2**31, 2**40, 2**63, 2**64 - 1]))
        case 7:
            digits = [i for i, byte in enumerate(out) if 48 <= byte <= 57 and i < len(out) - 60]
            for _ in range(rng.randrange(1, 4)):
                out[rng.choice(digits)] = rng.choice(b"0123456789")
    return bytes(out)


def test_mutations_of_a_file_of_fnets(tmp_path):
    path, rng = tmp_path / "a", random.Random(0)
    io.save(path, TREE, metadata={"epoch": 1})
    data = path.read_bytes()
    loaded = 0
    for _ in range(5000):
        path.write_bytes(mutate(data, rng))
        loaded += loads_as(path, TREE)
    assert loaded < 500  # a mutation that changes nothing, or only the padding


def test_mutations_of_a_file_without_checksums_never_crash(tmp_path):
    """Without checksums data may be other data; what comes must still be an error of fnet's, or arrays."""
    path, rng = tmp_path / "a", random.Random(1)
    io.save(path, TREE, checksum=False)
    ours = path.read_bytes()
    names = {"a.w": tensor(), "b": tensor("BF16", (4,), (8, 16)), "c": tensor("BOOL", (8,), (16, 24))}
    foreign = file_of(names, bytes(16) + b"\1" * 8)
    for data in [ours] * 2000 + [foreign] * 3000:
        path.write_bytes(mutate(data, rng))
        try:
            tree = io.load(path, verify=False)
        except io.FileError:
            continue
        assert sum(leaf.nbytes for leaf in jax.tree.leaves(tree) if hasattr(leaf, "nbytes")) <= 2 * len(data)


def test_one_flipped_bit_in_the_data_is_always_found(tmp_path):
    path = tmp_path / "a"
    io.save(path, {"encoder": {"weight": jnp.arange(10.0)}, "bias": jnp.ones(3)})
    data = path.read_bytes()
    start = 8 + struct.unpack_from("<Q", data)[0]
    for bit in range(8 * start, 8 * len(data)):
        out = bytearray(data)
        out[bit // 8] ^= 1 << bit % 8
        path.write_bytes(out)
        with pytest.raises(io.FileError, match=r"damaged: '(encoder\.weight|bias)' do not match the checksums"):
            io.load(path)
    path.write_bytes(out)
    assert io.load(path, verify=False)["bias"].shape == (3,)


def test_a_large_damaged_tensor_among_many_is_named(tmp_path):
    """Large files are read by several threads."""
    tree = {f"layer{i}": np.full(300_000, i, np.float32) for i in range(40)}
    io.save(tmp_path / "a", tree)
    assert loads_as(tmp_path / "a", tree)
    data = bytearray((tmp_path / "a").read_bytes())
    data[data.rindex(struct.pack("<f", 17.0))] ^= 4
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(io.FileError, match="'layer17' do not match"):
        io.load(tmp_path / "a")


def test_the_golden_file_of_format_1_loads_for_ever():
    tree = io.load(GOLDEN)
    assert io.metadata(GOLDEN) == {"note": "format 1", "epoch": 3}
    assert list(tree) == ["layers", "a.b", "key", "scalars", "numpy", "hole", "complex", "wide"]
    assert np.array_equal(tree["layers"][0]["weight"], [[0, 1], [2, 3]])
    assert np.array_equal(tree["layers"][1]["weight"], [[4, 5], [6, 7]])
    assert tree["a.b"].dtype == jnp.bfloat16 and isinstance(tree["layers"], list)
    assert tree["key"] == jax.random.key(42)
    assert tree["scalars"] == (None, True, -3, 10**20, 0.1, 1 - 2j, "é", {}, [], ())
    assert type(tree["numpy"]) is np.ndarray and tree["numpy"].tolist() == [1, 2, 3]
    assert tree["hole"] is fnet.tree.HOLE
    assert tree["complex"].tolist() == [1j] and tree["complex"].dtype == np.complex128
    assert type(tree["wide"]) is np.int64 and tree["wide"] == 2**40


def hostile(header: dict, rng: random.Random) -> dict:
    """A header of somebody who knows the format: valid JSON with a right checksum, in which something is a lie."""
    names = [name for name in header if name != "__metadata__"]
    name, other = rng.choice(names), rng.choice(names)
    sizes = [-1, 0, 1, 7, 2**31, 2**32, 2**62, 2**63, 2**64, 10**30, 1.5, True, None, "4", [2]]
    paths = ["../../etc/passwd", "/etc/shadow", "C:\\x", "a/../b", "\0", "..", "~", "__class__", "x" * 3000, "a." * 80]
    entry = dict(header[name])
    match rng.randrange(9):
        case 0:
            entry["data_offsets"] = [rng.choice([*sizes, *header[other]["data_offsets"]]) for _ in range(2)]
        case 1:
            entry["data_offsets"] = header[other]["data_offsets"]
        case 2:
            entry["shape"] = [rng.choice(sizes) for _ in range(rng.randrange(5))]
        case 3:
            entry["shape"] = [1] * rng.choice([32, 64, 65, 1000])
        case 4:
            entry["dtype"] = rng.choice(["F64", "I64", "U8", "BOOL", "C64", "BF16", "F8_E4M3", "F4", "", None, [], 3])
        case 5:
            header = {rng.choice(paths) if key == name else key: value for key, value in header.items()}
            return header
        case 6:
            metadata = dict(header["__metadata__"])
            key = rng.choice(list(metadata))
            metadata[key] = rng.choice(["", "{}", "[]", "null", "1", "9" * 5000, '{"a":' * 500, metadata[key][::-1]])
            return header | {"__metadata__": metadata}
        case 7:
            lies = [("jax", "numpy"), ("list", "tuple"), ("dict", "list"), ("threefry2x32", "rbg")]
            text = header["__metadata__"]["fnet.tree"].replace(*rng.choice(lies))
            return header | {"__metadata__": header["__metadata__"] | {"fnet.tree": text}}
        case 8:
            entry[rng.choice(["dtype", "shape", "extra"])] = rng.choice(sizes)
    return header | {name: entry}


def test_hostile_headers_with_right_checksums_take_no_more_than_the_file(tmp_path):
    """One's own error or arrays, in the memory that the file itself could fill, and never a file elsewhere."""
    path, rng = tmp_path / "a", random.Random(2)
    io.save(path, TREE)
    raw = path.read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    io.load(path)
    kinds = {True: 0, False: 0}
    tracemalloc.start()
    try:
        for _ in range(1000):
            lied = hostile(header, rng)
            zeroed = lied | {"__metadata__": lied["__metadata__"] | {"fnet.header_crc32": "00000000"}}
            crc = f"{zlib.crc32(json.dumps(zeroed, separators=(',', ':')).encode()):08x}"
            zeroed["__metadata__"]["fnet.header_crc32"] = crc
            path.write_bytes(file_of(zeroed, data))
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            try:
                tree = io.load(path, verify=rng.random() < 0.5, mmap=rng.random() < 0.3)
                assert sum(getattr(leaf, "nbytes", 0) for leaf in jax.tree.leaves(tree)) <= 2 * len(raw)
                kinds[True] += 1
            except io.FileError as error:
                assert len(str(error)) < 5000
                kinds[False] += 1
            assert tracemalloc.get_traced_memory()[1] - before < 5_000_000, lied  # what jax keeps of errors is in it
    finally:
        tracemalloc.stop()
    assert kinds[False] > 500 and kinds[True] > 50 and os.listdir(tmp_path) == ["a"], kinds


def test_a_message_about_long_names_is_short_and_soon_there(tmp_path):
    io.save(tmp_path / "a", {f"x{i}" + "ab" * 5000: np.zeros(0) for i in range(100)})
    begin = time.perf_counter()
    with pytest.raises(io.FileError, match="does not fit") as error:
        io.load(tmp_path / "a", like={f"y{i}" + "ab" * 5000: np.zeros(0) for i in range(100)})
    assert len(str(error.value)) < 50_000 and time.perf_counter() - begin < 5
