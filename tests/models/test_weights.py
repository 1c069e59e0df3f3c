import hashlib
import io
import json
import struct
import sys
import zipfile

import numpy as np
import pytest

from cae_jax.models import weights
from cae_jax.types import DataError, UsageError

NUMBERS = np.arange(1, 13, dtype=np.float32)
MAGIC = bytes([0x8A, 10]) + (0x1950A86A20F9469CFC6C).to_bytes(10, "little")


# What torch.save writes, in the pickle's own bytes: protocol 2, as it is in torch's files.
def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    return b"J" + struct.pack("<i", value) if abs(value) < 2**31 else (
        b"\x8a\x09" + value.to_bytes(9, "little", signed=True)
    )  # fmt: skip


def many(*parts):
    return b"(" + b"".join(parts) + b"t"


def name(module, what):
    return f"c{module}\n{what}\n".encode()


def tensor(size=(3, 4), strides=(4, 1), offset=0, elements=12, kind="FloatStorage", key="0",
           view=b""):  # fmt: skip
    storage = many(
        text("storage"), name("torch", kind), text(key), text("cpu"), number(elements), view
    )
    parts = [storage + b"Q", number(offset), many(*map(number, size)), many(*map(number, strides))]
    hooks = name("collections", "OrderedDict") + b")R"
    return name("torch._utils", "_rebuild_tensor_v2") + many(*parts, b"\x89", hooks) + b"R"


def pickled(value):
    return b"\x80\x02" + value + b"."


def state(**values):
    items = b"".join(text(key) + value for key, value in values.items())
    made = name("collections", "OrderedDict") + b")Rq\x01(" + items + b"u"
    metadata = b"}" + text("_metadata") + b"}s" + b"b"  # as state dicts carry it
    return pickled(made + metadata)


def as_zip(content, memory, byteorder=b"little", compression=zipfile.ZIP_STORED, root="model/"):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr(f"{root}data.pkl", content)
        archive.writestr(f"{root}byteorder", byteorder)
        for key, values in memory.items():
            archive.writestr(f"{root}data/{key}", values)
    return file.getvalue()


def as_stream(content, memory, little=b"\x88", width=4):
    system = pickled(b"}" + text("little_endian") + little + b"s")
    keys = pickled(b"](" + b"".join(map(text, memory)) + b"e")
    head = pickled(MAGIC) + pickled(b"M" + struct.pack("<H", 1001)) + system
    tail = [struct.pack("<q", len(v) // width) + v for v in memory.values()]
    return head + content + keys + b"".join(tail)


def as_safetensors(header, memory):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + memory


def entry(dtype="F32", shape=(3, 4), offsets=(0, 48)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


MEMORY = {"0": NUMBERS.tobytes()}
WHOLE = {
    "zip": as_zip(state(a=tensor()), MEMORY),
    "stream": as_stream(state(a=tensor(view=b"N")), MEMORY),
    "safetensors": as_safetensors(
        {"a": entry(), "__metadata__": {"format": "pt"}}, NUMBERS.tobytes()
    ),
}


@pytest.fixture
def read(tmp_path):
    def read_bytes(data):
        path = tmp_path / "weights.pth"
        path.write_bytes(data)
        return weights.read(path)

    return read_bytes


@pytest.fixture
def refused(read):
    """The message for bytes that must be refused, checked to be one line that names the file."""

    def message(data):
        with pytest.raises(DataError) as error:
            read(data)
        assert "weights.pth" in str(error.value)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 600
        return str(error.value)

    return message


@pytest.mark.parametrize("kind", WHOLE)
def test_a_file_gives_its_tensors(read, kind):
    found = read(WHOLE[kind])
    assert list(found) == ["a"]
    assert found["a"].dtype == np.float32
    np.testing.assert_array_equal(found["a"], NUMBERS.reshape(3, 4))


@pytest.mark.parametrize("kind", WHOLE)
def test_a_file_cut_off_at_any_tenth_is_refused(refused, kind):
    data = WHOLE[kind]
    for tenth in range(10):
        refused(data[: len(data) * tenth // 10])


@pytest.mark.parametrize("kind", WHOLE)
def test_a_damaged_file_is_read_or_refused(read, kind, rng):
    for _ in range(400):
        data = bytearray(WHOLE[kind])
        for at in rng.integers(len(data), size=rng.integers(1, 4)):
            data[at] = rng.integers(256)
        try:
            assert sum(v.size for v in read(bytes(data)).values()) <= len(data)
        except DataError as error:
            assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("kind", "dtype", "expected"),
    [
        ("FloatStorage", "<f4", "float32"),
        ("HalfStorage", "<f2", "float32"),
        ("DoubleStorage", "<f8", "float32"),
        ("LongStorage", "<i8", "int64"),
        ("IntStorage", "<i4", "int32"),
        ("ByteStorage", "u1", "uint8"),
    ],
)
def test_types(read, kind, dtype, expected):
    memory = {"0": NUMBERS.astype(dtype).tobytes()}
    content = state(a=tensor(kind=kind))
    for data in (
        as_zip(content, memory),
        as_stream(content, memory, width=np.dtype(dtype).itemsize),
    ):
        found = read(data)["a"]
        assert found.dtype == expected
        np.testing.assert_array_equal(found, NUMBERS.reshape(3, 4))


def test_bfloat16_is_the_upper_half_of_float32(read):
    halves = (np.array([1.0, -2.5, 3.140625], np.float32).view(np.uint32) >> 16).astype("<u2")
    found = read(
        as_zip(state(a=tensor((3,), (1,), 0, 3, "BFloat16Storage")), {"0": halves.tobytes()})
    )
    np.testing.assert_array_equal(found["a"], np.array([1.0, -2.5, 3.140625], np.float32))
    found = read(as_safetensors({"a": entry("BF16", (3,), (0, 6))}, halves.tobytes()))
    np.testing.assert_array_equal(found["a"], np.array([1.0, -2.5, 3.140625], np.float32))


def test_views_parameters_scalars_and_nothing(read):
    parameter = name("torch._utils", "_rebuild_parameter")
    found = read(
        as_zip(
            state(
                transposed=tensor((4, 3), (1, 4)),
                part=tensor((2, 2), (4, 1), offset=5),
                scalar=tensor((), (), offset=11),
                nothing=tensor((0, 3), (3, 1)),
                parameter=parameter + many(tensor(), b"\x88", b"}") + b"R",
            ),
            MEMORY,
        )
    )
    whole = NUMBERS.reshape(3, 4)
    np.testing.assert_array_equal(found["transposed"], whole.T)
    np.testing.assert_array_equal(found["part"], whole[1:, 1:3])
    assert found["scalar"].shape == ()
    assert found["scalar"] == 12
    assert found["nothing"].shape == (0, 3)
    np.testing.assert_array_equal(found["parameter"], whole)
    assert all(v.flags.owndata or v.base.flags.owndata for v in found.values())


def test_a_state_dict_within_a_checkpoint(read):
    inner = state(a=tensor())[2:-1]
    np.testing.assert_array_equal(
        read(as_zip(state(state_dict=inner, epoch=number(3)), MEMORY))["a"], NUMBERS.reshape(3, 4)
    )


def test_a_program_is_named_and_not_run(refused, tmp_path):
    touched = tmp_path / "touched"
    attack = name("os", "system") + b"(" + text(f"touch {touched}") + b"tR"
    for content in (state(a=attack), pickled(attack)):
        assert "os.system" in refused(as_zip(content, MEMORY))
        assert "os.system" in refused(as_stream(content, MEMORY))
    assert "os.system" in refused(pickled(attack))  # where the magic number stands
    for other in ("builtins eval", "torch._utils _rebuild_device_tensor_from_numpy", "torch load"):
        assert other.replace(" ", ".") in refused(as_zip(state(a=name(*other.split())), MEMORY))
    assert not touched.exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"\x8c\x01a", "SHORT_BINUNICODE"),  # of protocol 4
        (text("os") + text("system") + b"\x93", "STACK_GLOBAL"),
        (b"(" + name("torch", "FloatStorage") + b"o", "OBJ"),
        (b"i" + b"os\nsystem\n", "INST"),
        (text("2") + b"Q", "str in the place of a tuple"),
        (name("torch", "FloatStorage") + b")R", "calls 'torch FloatStorage'"),
        (name("collections", "OrderedDict") + b"(]tR", "a dict made of something"),
        (b"}" + many() + text("v") + b"s", "tuple in the place of a str"),  # would be hashed
        (b"r\xff\xff\xff\x7f" + number(1), "'a' is a int"),  # a memo of two thousand million
        (b"h\x09", "damaged"),  # nothing was put there
        (b"ttttt", "damaged"),
        (b"\x87\x87\x87", "damaged"),
        (b"bbb", "damaged"),
        (b"\x8a\xff" + b"\x01", "damaged"),
        (number(7), "'a' is a int, expected a tensor"),
        (tensor(kind="FloatStorage", key="1"), "no record of the storage '1'"),
        (tensor(size=(2**40, 4)), "beyond its storage"),
        (tensor(elements=2**40, size=(2**40,), strides=(1,)), "larger than the file"),
        (tensor(elements=-1), "no such type or size"),
        (tensor(elements=11, size=(2,), strides=(1,)), "has another size"),
        (tensor(size=(2**40, 4), strides=(0, 1)), "overlapping"),
        (tensor(size=(3, 4), strides=(1, 1)), "overlapping"),
        (tensor(size=(3, 4), strides=(-4, 1), offset=8), "no count"),
        (tensor(size=(-3, 4)), "no count"),
        (tensor(offset=-1), "no count"),
        (tensor(offset=1), "beyond its storage"),
        (tensor(offset=2**62, size=(0,), strides=(1,)), "beyond its storage"),
        (tensor(size=(3, 4), strides=(4,)), "2 sizes, 1 strides"),
        (tensor(size=(1,) * 9, strides=(1,) * 9), "9 sizes"),
    ],
)
def test_a_hostile_tensor_is_refused(refused, value, message):
    assert message in refused(as_zip(state(a=value), MEMORY))
    stream = refused(as_stream(state(a=value), MEMORY))
    assert message in stream or "storage" in stream


def test_tensors_of_one_storage_are_not_the_way_to_fill_the_memory(refused):
    memory = {"0": bytes(4 * 10_000)}
    same = tensor((10_000,), (1,), 0, 10_000)
    values = {f"a{i}": same for i in range(100)}
    assert "larger than the file" in refused(as_zip(state(**values), memory))


def test_a_storage_of_two_types_is_refused(refused):
    content = state(a=tensor(), b=tensor(kind="IntStorage"))
    assert "two types" in refused(as_zip(content, MEMORY))
    assert "two types" in refused(as_stream(content, MEMORY))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (as_zip(state(a=tensor()), MEMORY, byteorder=b"big"), "byte order"),
        (as_stream(state(a=tensor()), MEMORY, little=b"\x89"), "byte order"),
        (as_zip(state(a=tensor()), {"0": bytes(10**6)}, compression=zipfile.ZIP_DEFLATED),
         "compressed"),
        (as_zip(state(a=tensor()), {"0": bytes(44)}), "another size"),
        (as_zip(state(a=tensor()), MEMORY, root="").replace(b"data.pkl", b"info.pkl"),
         "0 records data.pkl"),
        (as_stream(state(a=tensor()), {"0": bytes(44)}), "another size"),
        (as_stream(state(a=tensor()), {"1": bytes(48)}), "list of storages"),
        (as_stream(state(a=tensor(view=many(text("1"), number(0), number(4)))), MEMORY),
         "no storage of its own"),
        (as_zip(pickled(number(3)), {}), "holds a int"),
        (as_stream(pickled(b"]"), {}), "holds a list"),
        (pickled(b"}"), "torch.save did not write"),
        (b"", "neither"),
        (b"GIF89a of something else", "neither"),
    ],
)  # fmt: skip
def test_other_files_are_refused(refused, data, message):
    assert message in refused(data)


def test_records_that_overlap_are_refused(refused):
    data = as_zip(state(a=tensor()), MEMORY)
    at = data.rindex(b"PK\x01\x02")  # the directory's entry of the storage
    bomb = data[: at + 20] + struct.pack("<II", 2**30, 2**30) + data[at + 28 :]
    assert "larger than the file" in refused(bomb)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": entry(offsets=(4, 52))}, "leaves a gap"),
        ({"a": entry(), "b": entry(offsets=(0, 48))}, "overlaps"),
        ({"a": entry(offsets=(0, 47))}, "another size"),
        ({"a": entry(shape=(3, 5))}, "another size"),
        ({"a": entry(shape=(2**40, 2**40))}, "larger than the file"),
        ({"a": entry(shape=(-3, -4))}, "no count"),
        ({"a": entry(shape=(3.0, 4))}, "no count"),
        ({"a": entry(dtype="F8_E4M3")}, "'F8_E4M3'"),
        ({"a": entry(offsets=(0, -48))}, "overlaps"),
        ({"a": entry(offsets=(0, 10**30))}, "cut off"),
        ({"a": entry(offsets=(0, 48, 96))}, "understood"),
        ({"a": entry(offsets=("0", 48))}, "overlaps"),
        ({"a": {"dtype": "F32"}}, "data_offsets"),
        ({"a": [1, 2]}, "understood"),
        (b"{[" * 30_000, "understood"),
        (b'{"a":' * 30_000, "understood"),
        (b"{]", "understood"),
    ],
)
def test_a_hostile_header_is_refused(refused, header, message):
    assert message in refused(as_safetensors(header, NUMBERS.tobytes()))


def test_a_header_longer_than_the_file_is_refused(refused):
    assert "header" in refused(struct.pack("<Q", 2**63) + b"{}" + bytes(48))


def test_what_is_no_file_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere.pth"):
        with pytest.raises(DataError, match="cannot be read"):
            weights.read(path)
        with pytest.raises(DataError, match="cannot be read"):
            weights.sha256(path)


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert weights.sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_a_package_is_found_and_not_imported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for package, files in {"trained_net": 1, "empty_net": 0, "double_net": 2}.items():
        (tmp_path / package / "models").mkdir(parents=True)
        (tmp_path / package / "__init__.py").write_text("raise SystemExit")
        for i in range(files):
            (tmp_path / package / "models" / f"{i}.pth").write_bytes(b"")
    assert weights.find("trained_net") == tmp_path / "trained_net" / "models" / "0.pth"
    assert "trained_net" not in sys.modules
    for package, what in {
        "empty_net": "has 0 weight files",
        "double_net": "has 2 weight files",
        "missing_net": "is not installed",
    }.items():
        with pytest.raises(UsageError, match=f"{package} {what}: .*--weights=FILE"):
            weights.find(package)


@pytest.mark.parametrize("new", [True, False])
def test_as_torch_reads_it(tmp_path, new):
    torch = pytest.importorskip("torch", reason="torch, which wrote the format, is not installed")
    path = tmp_path / "a.pt"
    made = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
    made[0].weight.data = made[0].weight.data.to(memory_format=torch.channels_last)
    values = made.state_dict()
    values["half"] = torch.arange(5).half()
    values["brain"] = torch.linspace(-3, 3, 7).bfloat16()
    values["tied"] = values["0.weight"]
    torch.save(values, path, _use_new_zipfile_serialization=new)
    found = weights.read(path)
    assert list(found) == list(values)
    for key, value in values.items():
        expected = value.float() if value.is_floating_point() else value
        np.testing.assert_array_equal(found[key], expected.numpy())
