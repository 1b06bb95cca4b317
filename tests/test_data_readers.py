"""Readers of images, tables, arrays and text, against files made here."""

from __future__ import annotations

import hashlib
import pickle
import tarfile

import numpy as np
import pytest

from fnet import data
from fnet.data import ArrayDataset, DataLoader, ImageCSV, ImageFolder, Rng, transforms

# --- tables -----------------------------------------------------------------------------------------------------------


def csv(tmp_path, text, **options):
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode())
    return data.read_csv(path, **options)


def test_csv_columns_have_types(tmp_path):
    table = csv(tmp_path, "\ufeffid,x,ok,name,zip,when\r\n1,0.5,true,\"a, \"\"b\"\"\",01234,\r\n\r\n"
                          "-2,3,FALSE,\"two\nlines\",10115,1e9\r\n")  # fmt: skip
    kinds = {name: array.dtype for name, array in table.items()}
    assert kinds == {"id": "int64", "x": "float64", "ok": "bool", "name": "object", "zip": "object", "when": "float64"}
    assert table["id"].tolist() == [1, -2] and table["x"].tolist() == [0.5, 3] and table["ok"].tolist() == [True, False]
    assert table["name"].tolist() == ['a, "b"', "two\nlines"] and table["zip"].tolist() == ["01234", "10115"]
    assert np.isnan(table["when"][0]) and table["when"][1] == 1e9
    assert len(ArrayDataset({"x": table["x"], "y": table["id"]})) == 2


def test_csv_missing_values_types_and_delimiters(tmp_path):
    text = "a;b;c\n1;NA;x\n;2;\n"
    table = csv(tmp_path, text, delimiter=";")
    assert np.array_equal(table["a"], [1, np.nan], equal_nan=True) and table["c"].tolist() == ["x", ""]
    filled = csv(tmp_path, text, delimiter=";", fill={"a": -1, "b": 0, "c": "?"})
    assert filled["a"].dtype == np.int64 and filled["a"].tolist() == [1, -1]
    assert filled["c"].tolist() == ["x", "?"]
    typed = csv(tmp_path, text, delimiter=";", types={"a": "float32", 1: "int8", "c": "str"}, fill={"b": 7})
    assert typed["a"].dtype == np.float32 and typed["b"].dtype == np.int8 and typed["b"].tolist() == [7, 2]
    bare = csv(tmp_path, "1,x\n2,y\n", header=False)
    assert list(bare) == ["0", "1"] and bare["0"].tolist() == [1, 2]
    assert csv(tmp_path, "a,b\n1,x\n", missing=["x"])["b"].dtype == np.float64  # nothing but missing values
    widened = csv(tmp_path, "a\n1\n2.5\n")["a"]
    assert widened.dtype == np.float64 and widened.tolist() == [1, 2.5]


def test_csv_of_one_column_that_another_delimiter_splits_is_refused_and_no_other(tmp_path):
    with pytest.raises(ValueError, match="table.csv: .*=',', but with delimiter=';' each line has 2 fields: a, b$"):
        csv(tmp_path, "a;b\n1;x\n2;y\n")
    with pytest.raises(ValueError, match="delimiter=';' each line has 2"):  # and not "line 2 has 3 fields"
        csv(tmp_path, "a;b\n1,5;2,5\n")
    with pytest.raises(ValueError, match="delimiter=';' each line has 2"):  # nor "',' expected after '\"'"
        csv(tmp_path, '"a";"b"\n"x;\ny";3\n')
    with pytest.raises(ValueError, match=r"delimiter='\\t' each line has 3"):
        csv(tmp_path, "a\tb\tc\n1\t2\t3\n")
    assert csv(tmp_path, "last, first\nSmith, Ann\n", delimiter=";")["last, first"][0] == "Smith, Ann"  # as asked for
    assert list(csv(tmp_path, "words; of some kind\none\ntwo; three; four\n")) == ["words; of some kind"]
    assert csv(tmp_path, "words\none; two\nthree; four\n")["words"][0] == "one; two"
    assert csv(tmp_path, "a;b,c\n1;2,3\n")["c"].tolist() == [3]  # two columns, of which one has an odd name
    with pytest.raises(ValueError, match="line 2: ',' expected after"):  # broken with any delimiter
        csv(tmp_path, 'a,b\n"x"y,1\n')


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a,b\n1,2\n3\n", {}, "line 3 has 1 fields, expected 2"),
        ('a\n"x\ny"\n1,2\n', {}, "line 4 has 2 fields, expected 1"),
        ("a\n1\n2\nx3\n", {}, r"column 'a': line 4: 'x3' is text, and line 2 has an integer: '1'.*declare"),
        ("a\ntrue\n3\n", {}, "line 3: '3' is an integer, and line 2 has true or false"),
        ("a\n1\n1_000\n", {}, "'1_000' is text"),
        ("a\n300\n", {"types": {"a": "uint8"}}, "line 2: 300 does not fit in uint8"),
        ("a\n1.5\n", {"types": {"a": "int32"}}, "line 2: 1.5 does not fit in int32"),
        ("a\nx\n", {"types": {"a": "float32"}}, "line 2: 'x' does not fit in float32"),
        ("a,b\n,1\n", {"types": {"a": "int32"}}, "line 2 has no value, which int32 cannot say; give fill="),
        ("a\n99999999999999999999\n", {}, "line 2 has an integer beyond 64 bits"),
        ("a\n1\n", {"types": {"b": "int32"}}, "has no column 'b'; its columns are a"),
        ("a,a\n1,2\n", {}, "a column name is there more than once"),
        ('a\n"x\n', {}, "line 2: unexpected end of data"),
        ("", {}, "has no line"),
    ],
)
def test_csv_errors_have_the_line(tmp_path, text, options, message):
    with pytest.raises(ValueError, match=f"table.csv: .*{message}"):
        csv(tmp_path, text, **options)


def jsonl(tmp_path, text, **options):
    path = tmp_path / "table.jsonl"
    path.write_text(text)
    return data.read_jsonl(path, **options)


def test_json_lines(tmp_path):
    table = jsonl(tmp_path, '{"x": 1, "y": {"z": "a", "w": [1, 2.5]}, "ok": true}\n\n'
                            '{"x": 2.5, "y": {"z": "7", "w": [3, 4]}, "ok": false, "late": 1}\n')  # fmt: skip
    assert list(table) == ["x", "y.z", "y.w", "ok", "late"]
    assert table["x"].tolist() == [1, 2.5] and table["y.z"].tolist() == ["a", "7"] and table["ok"].dtype == bool
    assert table["y.w"].tolist() == [[1, 2.5], [3, 4]] and np.isnan(table["late"][0])
    assert jsonl(tmp_path, '{"x": null}\n{"x": 3}', fill={"x": 0})["x"].tolist() == [0, 3]
    assert jsonl(tmp_path, '{"x": 3}', types={"x": "uint8"})["x"].dtype == np.uint8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"x": 1}\n{"x": }\n', "line 2 is not JSON"),
        ("[1]\n", r"line 1 is not an object \{…\} but a list"),
        ('{"x": 1}\n{"x": "a"}\n', "column 'x': line 2: 'a' is text, and line 1 has an integer: 1"),
        ('{"x": [1, 2]}\n{"x": [1]}\n', r"column 'x': line 2: expected a list of numbers of shape \[2\], as above"),
        ('{"x": [1, "a"]}\n', "line 1: expected a list of numbers in one shape"),
        ('{"x": 1}\n{"x": [1]}\n', r"line 2: \[1\] is a list"),
        ("\n", "has no line"),
    ],
)
def test_json_errors_have_the_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=f"table.jsonl: .*{message}"):
        jsonl(tmp_path, text)


# --- arrays and text --------------------------------------------------------------------------------------------------


def test_npy_and_npz_in_memory_and_mapped(tmp_path):
    arrays = {"images": np.arange(60, dtype=np.uint8).reshape(5, 4, 3), "labels": np.arange(5) * 1.5,
              "columns": np.asfortranarray(np.arange(6).reshape(2, 3))}  # fmt: skip
    np.savez(tmp_path / "a.npz", **arrays)
    np.savez_compressed(tmp_path / "b.npz", **arrays)
    np.save(tmp_path / "c.npy", arrays["images"])
    for read in (data.read_npz(tmp_path / "a.npz"), data.read_npz(tmp_path / "b.npz"),
                 data.read_npz(tmp_path / "a.npz", memmap=True)):  # fmt: skip
        assert list(read) == list(arrays) and all(np.array_equal(read[name], arrays[name]) for name in arrays)
    assert isinstance(read["images"], np.memmap)
    dataset = ArrayDataset(read["images"], data.open_npy(tmp_path / "c.npy"))
    assert len(pickle.dumps(dataset)) < 2000  # by reference
    batch = pickle.loads(pickle.dumps(dataset)).get_batch([4, 0])
    assert np.array_equal(batch[0], arrays["images"][[4, 0]]) and np.array_equal(batch[1], batch[0])


def test_damaged_arrays_are_named(tmp_path):
    np.savez_compressed(tmp_path / "b.npz", x=np.arange(3))
    np.save(tmp_path / "o.npy", np.array([None]), allow_pickle=True)
    np.savez(tmp_path / "o.npz", x=np.array([None]))
    np.save(tmp_path / "c.npy", np.arange(100))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "c.npy").read_bytes()[:300])
    (tmp_path / "cut.npz").write_bytes((tmp_path / "b.npz").read_bytes()[:60])
    for call, message in (
        (lambda: data.read_npz(tmp_path / "b.npz", memmap=True), "b.npz: .*x.npy is compressed"),
        (lambda: data.read_npz(tmp_path / "o.npz"), "o.npz: .*pickle"),
        (lambda: data.read_npz(tmp_path / "o.npz", memmap=True), "o.npz: .*x.npy holds Python objects"),
        (lambda: data.open_npy(tmp_path / "o.npy"), "o.npy: .*object"),
        (lambda: data.open_npy(tmp_path / "cut.npy"), "cut.npy: cannot be mapped"),
        (lambda: data.read_npz(tmp_path / "cut.npz"), "cut.npz: cannot be read as an npz file"),
        (lambda: data.read_npz(tmp_path / "c.npy"), "c.npy: .*one array; use open_npy"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    for read in (data.read_npz, data.open_npy, data.read_text, data.read_image, data.read_csv):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            read(tmp_path / "nowhere")


@pytest.mark.parametrize("file", ["deep.png", "deep.tif", "deep.pgm"])
def test_more_than_eight_bits_are_read_only_where_nothing_is_lost(tmp_path, file):
    Image = pytest.importorskip("PIL.Image", reason="reading images needs the image extra: pip install fnet[image]")

    deep = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(deep).save(tmp_path / file)
    with pytest.raises(ValueError, match=rf"{file}: its values, .* from 0 to 65520, do not fit into bytes"):
        data.read_image(tmp_path / file)
    Image.fromarray(deep // 257).save(tmp_path / "small.png")  # such as the numbers of classes
    np.testing.assert_array_equal(data.read_image(tmp_path / "small.png", "L")[..., 0], deep // 257)
    Image.fromarray(np.float32(deep / 65535)).save(tmp_path / "floats.tif")
    with pytest.raises(ValueError, match=r"floats.tif: its values, float32 from 0.0 to 0.99"):
        data.read_image(tmp_path / "floats.tif")
    Image.fromarray(np.float32([[np.nan, 1e9], [-1, 3]])).save(tmp_path / "nan.tif")
    with pytest.raises(ValueError, match=r"nan.tif: its values"):  # and no warning of a cast, which is an error here
        data.read_image(tmp_path / "nan.tif")


def test_text_files(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\ntwo\u2028still two\rthree\n\n".encode())
    assert data.read_text(path) == "one\r\ntwo\u2028still two\rthree\n\n"
    assert data.read_lines(path) == ["one", "two\u2028still two", "three", ""]
    path.write_bytes(b"fine\ncaf\xe9\n")
    with pytest.raises(ValueError, match=r"a.txt: line 2 is not utf-8: byte 0xe9 at position 8.*latin-1"):
        data.read_text(path)
    assert data.read_lines(path, "latin-1") == ["fine", "café"]


# --- images -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    Image = pytest.importorskip("PIL.Image", reason="needs the image extra: pip install fnet[image]")
    rng = np.random.default_rng(0)
    for name in ("dog/b.png", "dog/a.PNG", "cat/deep/x.bmp", "cat/y.png", "ant/1.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (6, 5, 3)).astype(np.uint8)).save(path)
    Image.fromarray(np.full((6, 5), 9, np.uint8)).save(tmp_path / "images" / "ant" / "2.png")  # grey
    (tmp_path / "images" / "dog" / "notes.txt").write_text("no image")
    (tmp_path / "images" / "dog" / ".hidden.png").write_text("no image")
    (tmp_path / "images" / ".git").mkdir()
    return tmp_path / "images"


def test_image_folder(folder):
    dataset = ImageFolder(folder)
    assert dataset.classes == ("ant", "cat", "dog") and dataset.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert [str(p.relative_to(folder)) for p in dataset.paths] == ["ant/1.png", "ant/2.png", "cat/deep/x.bmp",
                                                                   "cat/y.png", "dog/a.PNG", "dog/b.png"]  # fmt: skip
    image, label = dataset[1]
    assert image.shape == (6, 5, 3) and (image == 9).all() and label.dtype == np.int32 and dataset[-1][1] == 2
    assert ImageFolder(folder, mode="L")[0][0].shape == (6, 5, 1)
    images, labels = DataLoader(dataset, batch_size=6).batch(0)
    assert images.shape == (6, 6, 5, 3) and labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert np.array_equal(images[4], data.read_image(folder / "dog" / "a.PNG"))
    assert repr(dataset) == "ImageFolder(6 images of 3 classes)" and not dataset.random


def test_transforms_draw_by_seed_epoch_and_index(folder):
    t = transforms.Compose([transforms.RandomCrop(4), transforms.RandomHorizontalFlip(), transforms.ToFloat()])
    dataset = pickle.loads(pickle.dumps(ImageFolder(folder, t, transforms.OneHot(3))))
    assert dataset.random
    loader = DataLoader(dataset, batch_size=4, seed=5, shuffle=True)
    batches = [loader.batch(step) for step in range(6)]
    assert all(images.dtype == np.float32 and labels.shape[1] == 3 for images, labels in batches)
    again = DataLoader(dataset, batch_size=2, seed=5, shuffle=True)  # another batch size, the same samples
    ours = [image.tobytes() for images, _ in batches[:2] for image in images]
    assert ours == [image.tobytes() for step in range(3) for image in again.batch(step)[0]]
    later = {image.tobytes() for images, _ in batches[2:4] for image in images}
    assert len(set(ours) - later) >= 2  # another epoch, other crops
    assert np.array_equal(dataset[3][0], dataset.get(3, Rng(0, 0, 3))[0])


def test_a_damaged_image_is_named(folder):
    whole = (folder / "cat" / "y.png").read_bytes()
    dataset = ImageFolder(folder)
    for contents in (whole[: len(whole) // 2], b"", b"no image", whole[:30] + b"\xff" * 40):
        (folder / "cat" / "y.png").write_bytes(contents)
        with pytest.raises(ValueError, match=r"cat/y.png: cannot be read as an image, it may be damaged") as caught:
            dataset[3]
        assert any("y.png" in note for note in caught.value.__notes__)


def test_folders_without_images_are_named(folder, tmp_path):
    (folder / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no image in the class folder empty of"):
        ImageFolder(folder)
    with pytest.raises(FileNotFoundError, match="has no folders"):
        ImageFolder(folder / "empty")
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        ImageFolder(tmp_path / "nowhere")
    (folder / "empty").rmdir()
    assert len(ImageFolder(folder, extensions=[".PNG", ".bmp"])) == 6
    with pytest.raises(IndexError, match="sample 6 of a dataset with 6"):
        ImageFolder(folder)[6]


def test_image_csv(folder, tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("name,file,kind\nRex,dog/b.png,dog\nTom,cat/y.png,cat\nFido,dog/a.PNG,dog\n")
    dataset = ImageCSV(path, folder, image="file", label="kind")
    assert dataset.classes == ("cat", "dog") and [int(label) for _, label in dataset] == [1, 0, 1]
    assert np.array_equal(dataset[1][0], data.read_image(folder / "cat" / "y.png"))
    path.write_text("dog/b.png,0.5\ncat/y.png,2\n")
    floats = ImageCSV(path, folder, transforms.ToFloat(), lambda label: label * 2, header=False)
    assert floats.classes is None and floats[0][0].dtype == np.float32 and floats[0][1] == 1.0
    path.write_text("file,label\n007.png,3\n")
    for options, error, message in (
        ({}, FileNotFoundError, "labels.csv names 007.png, but there is no file"),
        ({"label": "kind"}, ValueError, "labels.csv: has no column 'kind'; its columns are file, label"),
    ):
        with pytest.raises(error, match=message):
            ImageCSV(path, folder, **options)
    path.write_text("file\n1.png\n")
    with pytest.raises(ValueError, match=r"needs a column of image files and one of labels, has \['file'\]"):
        ImageCSV(path, folder)


def test_real_jpegs(data_dir, tmp_path):
    pytest.importorskip("PIL", reason="needs the image extra: pip install fnet[image]")
    archive = data_dir / "cifar10-jpeg-subset.tar"
    if not archive.is_file():
        pytest.skip("FNET_DATA has no cifar10-jpeg-subset.tar")
    with tarfile.open(archive) as tar:
        members = [m for m in tar if "/test/" in m.name and m.name.endswith(("000.jpg", "001.jpg"))][:20]
        tar.extractall(tmp_path, members, filter="data")
    root = next(path for path in tmp_path.rglob("test") if path.is_dir())
    dataset = ImageFolder(root, transforms.Compose([transforms.RandAugment(), transforms.RandomResizedCrop(24)]))
    assert len(dataset) == len(members) > 5 and set(dataset.classes) <= set(data.sets.cifar_sets._CLASSES10)
    images, labels = DataLoader(dataset, batch_size=len(members), seed=1).batch(0)
    assert images.shape[1:] == (24, 24, 3) and images.std() > 20
    threaded = DataLoader(dataset, batch_size=len(members), seed=1, prefetch=1)
    assert hashlib.sha256(next(iter(threaded))[0]).digest() == hashlib.sha256(images).digest()
