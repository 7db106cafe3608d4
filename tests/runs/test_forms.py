"""The same images in every form that a source may have give the same masks."""

import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.local import run_local
from jobs.cli import _main
from jobs.spec import Cut

DAMAGED = b"\x89PNG\r\n\x1a\n and no more"


def as_folder(files, root):
    for name, data in files.items():
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root / "images"


def as_manifest(files, root):
    as_folder(files, root)
    names = reversed([f"images/{name}" for name in files])
    (root / "x.csv").write_text("\n".join(["uri", *names]))
    return root / "x.csv"


def as_tar(files, root):
    with tarfile.open(root / "x.tar", "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return root / "x.tar"


def as_parquet(files, root, rows=4):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows_of = [{"bytes": data, "path": name} for name, data in files.items()]
    table = pa.table({"image": pa.array(rows_of, kind)})
    pq.write_table(table, root / "x.parquet", row_group_size=rows)
    return root / "x.parquet"


def as_mixture(files, root):
    """A folder with some of them as they are, some in a tar and some in Parquet."""
    parts = [dict(list(files.items())[start::3]) for start in range(3)]
    folder = as_folder(parts[0], root)
    as_tar(parts[1], folder)
    as_parquet(parts[2], folder, rows=2)
    return folder


FORMS = (as_folder, as_manifest, as_tar, as_parquet, as_mixture)


@pytest.fixture(scope="module")
def files(images):
    """Images by name, one of them damaged."""
    found = {
        str(path.relative_to(images)): path.read_bytes()
        for path in sorted(images.rglob("*.png"))
    }
    return found | {"z damaged: .png": DAMAGED}


def masks_of(run):
    rows = pq.read_table(run / "masks", columns=["mask", "height", "width"]).to_pylist()
    return sorted((row["mask"], row["height"], row["width"]) for row in rows)


@pytest.fixture(scope="module")
def expected(files, linear, run_job, tmp_path_factory):
    root = tmp_path_factory.mktemp("plain")
    run_job(run_local, "label", as_folder(files, root), root / "run", linear)
    return masks_of(root / "run")


@pytest.mark.parametrize("items", [3, 64])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_masks_are_the_same_bytes(  # noqa: PLR0913, PLR0917 - fixtures
    files, expected, linear, run_job, tmp_path, form, items
):
    run, cut = tmp_path / "run", Cut(shard_items=items)
    summary = run_job(run_local, "label", form(files, tmp_path), run, linear, cut=cut)
    assert masks_of(run) == expected
    assert (summary["items"], summary["dead_letters"]) == (10, 1)
    assert len(expected) == 9


def test_what_is_damaged_costs_itself_and_is_accounted_for(
    files, expected, linear, run_job, tmp_path
):
    source = tmp_path / "source"
    source.mkdir()
    tar = as_tar({name: files[name] for name in list(files)[:4]}, source)
    tar.write_bytes(tar.read_bytes()[: -10 * 1024])  # the padding, and more
    rows = [{"bytes": files[name], "path": None} for name in list(files)[4:9]]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    array = pa.array([None, *rows, {"bytes": None, "path": "a"}], kind)
    pq.write_table(pa.table({"image": array}), source / "y.parquet")
    (source / "empty: .png").touch()
    run = tmp_path / "run"
    summary = run_job(run_local, "label", source, run, linear)
    letters = pq.read_table(run / "dead_letter.parquet").to_pylist()
    found = {row["key"]: (row["stage"], row["code"]) for row in letters}
    cut = {key: value for key, value in found.items() if key.startswith("x.tar")}
    assert list(cut.values()) == [("plan", "truncated")]
    assert {key: value for key, value in found.items() if key not in cut} == {
        "empty: .png": ("read", "undecodable"),
        "y.parquet/000000000": ("read", "undecodable"),
        "y.parquet/000000006": ("read", "undecodable"),
    }
    masks = masks_of(run)
    assert set(masks) <= set(expected)
    assert len(masks) + len(letters) == summary["items"]
    assert _main(["verify", str(run), "--deep"]) == 0
    assert json.loads((run / "summary.json").read_text())["finished"]


@pytest.mark.parametrize(
    "form", [as_folder, as_tar, as_parquet], ids=lambda one: one.__name__
)
def test_exports_find_the_images_again(files, linear, run_job, tmp_path, form):
    run, out = tmp_path / "run", tmp_path / "out"
    run_job(run_local, "label", form(files, tmp_path), run, linear)
    assert _main(["export", "webdataset", str(run), str(out)]) == 0
    exported = []
    for path in out.rglob("*.tar"):
        with tarfile.open(path) as tar:
            exported += [
                tar.extractfile(one).read()
                for one in tar
                if one.name.endswith(".png") and not one.name.endswith(".mask.png")
            ]
    assert sorted(exported) == sorted(data for data in files.values() if data != DAMAGED)
