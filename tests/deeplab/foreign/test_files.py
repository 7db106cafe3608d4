"""Real files of every kind, sound, damaged and hostile."""

import os
import pickle
import sys
import types

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from deeplab.foreign.files import read_checkpoint

STATE = {
    "conv.weight": torch.arange(300, dtype=torch.float32).reshape(3, 100),
    "bn.num_batches_tracked": torch.tensor(7),
}
PICKLES = (".pt", ".pth", ".pth.tar", ".ckpt", ".bin", ".pkl")


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype
        assert torch.equal(tensor, theirs[name])


@pytest.fixture
def saved(tmp_path):
    """Write what torch.save writes."""

    def save(value, ending=".pt", **options):
        path = tmp_path / f"file{ending}"
        torch.save(value, path, **options)
        return path

    return save


@pytest.mark.parametrize("ending", PICKLES)
@pytest.mark.parametrize("is_new", [True, False])
def test_torch(saved, ending, is_new):
    path = saved(STATE, ending, _use_new_zipfile_serialization=is_new)
    assert_same(read_checkpoint(path), STATE)
    assert_same(read_checkpoint(str(path)), STATE)


@pytest.mark.parametrize(
    "wrapped",
    [
        {"state_dict": STATE, "epoch": 3, "optimizer": {"state": {0: STATE}}},
        {"model_state": STATE, "best_score": np.float64(0.75), "cur_itrs": np.int64(4)},
        {"model": STATE, "step": torch.tensor(9), "previous_best": np.float32(0.5)},
        {"model": {"state_dict": STATE}},
        {"net": {"weights": STATE}},
        {"state_dict": {"conv.weight": torch.zeros(1)}, "state_dict_ema": STATE},
        {"model": {f"module.{name}": value for name, value in STATE.items()}},
        {"state_dict": {f"model._orig_mod.{name}": STATE[name] for name in STATE}},
        {f"module.module.{name}": value for name, value in STATE.items()},
        {name: value.numpy() for name, value in STATE.items()},
    ],
    ids=lambda value: ",".join(value)[:40],
)
def test_wrappers_and_prefixes_come_off(saved, wrapped):
    assert_same(read_checkpoint(saved(wrapped)), STATE)


def test_prefixes_that_some_keys_lack_stay(saved):
    state = {"model.conv.weight": torch.ones(1), "criterion.weight": torch.ones(1)}
    assert_same(read_checkpoint(saved(state)), state)


def test_arrays_come_back_as_they_were(tmp_path):
    """Every kind of number, order of bytes and of axes, in every protocol."""
    arrays = {
        "big": np.arange(6, dtype=">f4").reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
        "count": np.array(5),
        "half": np.ones((2, 0), np.float16),
        "flag": np.array([True, False]),
    }
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path = tmp_path / "model_final.pkl"
        content = {"model": arrays, "__author__": "somebody", "matching_heuristics": True}
        path.write_bytes(pickle.dumps(content, protocol))
        read = read_checkpoint(path)
        for name, array in arrays.items():
            expected = torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
            assert read[name].dtype == expected.dtype
            assert torch.equal(read[name], expected)


def test_pickles_of_python_2(tmp_path):
    """There, the bytes of an array are a text."""
    path = tmp_path / "R-103.pkl"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        b"(I1\n(I1\ntcnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
        b"I00\nS'\\x00\\x00\\x80?'\ntb"
    )
    path.write_bytes(b"(dS'model'\n(dS'stem.weight'\n" + array + b"ss.")
    assert_same(read_checkpoint(path), {"stem.weight": torch.ones(1)})


class Hostile:
    """Runs a command when it is unpickled by one who trusts it."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("ending", [".pkl", ".pth"])
@pytest.mark.parametrize("is_torch", [True, False])
def test_no_pickle_runs_code(tmp_path, ending, is_torch):
    proof = tmp_path / "proof"
    path = tmp_path / f"file{ending}"
    content = {"model": STATE, "extra": Hostile(f"touch {proof}")}
    if is_torch:
        torch.save(content, path)
    else:
        content["model"] = {name: value.numpy() for name, value in STATE.items()}
        path.write_bytes(pickle.dumps(content))
        pickle.loads(path.read_bytes())  # noqa: S301 - it would run
        assert proof.exists()
        proof.unlink()
    with pytest.raises(
        ValueError, match=r"got \w+\.system, which may run code.*torch\.save"
    ):
        read_checkpoint(path)
    assert not proof.exists()


GLOBALS = {
    "eval": b"cbuiltins\neval\n(S'1'\ntR.",
    "getattr": b"cbuiltins\ngetattr\n(cnumpy\nndarray\nS'tofile'\ntR.",
    "a codec": b"c_codecs\nencode\n(S'a'\nS'rot13'\ntR.",
    "objects": b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR.",
    "an attribute": b"cnumpy.core.multiarray\nscalar\n(dS'x'\nI1\nsb.",
    "a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.data\x93.",
    "a stored object": b"S'1'\nQ.",
    "an extension": b"\x80\x02\x82\x01.",
}


@pytest.mark.parametrize("name", GLOBALS)
def test_what_is_not_an_array_is_refused(tmp_path, name):
    path = tmp_path / "file.pkl"
    path.write_bytes(GLOBALS[name])
    with pytest.raises(ValueError, match=r"which may run code|cannot be read"):
        read_checkpoint(path)


def test_networks_are_refused_with_a_way_out(saved):
    with pytest.raises(
        ValueError, match=r"got torch\.nn\.modules\.conv\.Conv2d, which may"
    ):
        read_checkpoint(saved(nn.Conv2d(1, 1, 1)))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"state": {}, "param_groups": []}, "got a dict of param_groups, state"),
        ({}, "got a dict of nothing"),
        ([torch.ones(1)], "got a list"),
        (torch.ones(1), "got a Tensor"),
        ({"state_dict": {}}, "got a dict of nothing"),
        ({"a": torch.ones(1), "b": "text"}, "got b and 0 more that are not"),
        ({0: torch.ones(1)}, "got 0 and 0 more that are not"),
    ],
)
def test_other_things_are_named(saved, value, message):
    with pytest.raises(ValueError, match=message):
        read_checkpoint(saved(value))


def write_npz(path):
    np.savez(path, **{name: value.numpy() for name, value in STATE.items()})


def write_hdf5(path):
    with h5py.File(path, "w") as file:
        for name, value in STATE.items():
            file[name] = value.numpy()


WRITERS = {
    ".pth": lambda path: torch.save(STATE, path),
    ".pt": lambda path: torch.save(STATE, path, _use_new_zipfile_serialization=False),
    ".pkl": lambda path: path.write_bytes(
        pickle.dumps({name: value.numpy() for name, value in STATE.items()})
    ),
    ".safetensors": lambda path: save_file(STATE, path),
    ".npz": write_npz,
    ".h5": write_hdf5,
}


@pytest.mark.parametrize("ending", WRITERS)
def test_cut_files_are_refused(tmp_path, ending):
    path = tmp_path / f"file{ending}"
    WRITERS[ending](path)
    whole = path.read_bytes()
    assert_same(read_checkpoint(path), STATE)
    for size in (0, 1, 2, 10, 50, 200, len(whole) // 2, len(whole) - 40, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cannot be read .* copy it again"):
            read_checkpoint(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("ending", WRITERS)
def test_overwritten_files_raise_nothing_else(tmp_path, ending):
    """A byte that changed within a number may go unseen; anything else is a ValueError."""
    path = tmp_path / f"file{ending}"
    WRITERS[ending](path)
    whole = path.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 150)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            read_checkpoint(path)
        except ValueError as error:
            assert type(error) is ValueError  # noqa: PT017
            assert str(path) in str(error)  # noqa: PT017


@pytest.mark.parametrize("ending", [*WRITERS, ".pth.tar", ".hdf5"])
def test_a_text_is_no_checkpoint(tmp_path, ending):
    path = tmp_path / f"file{ending}"
    path.write_text("<html>404: not found</html>\n" * 9)
    with pytest.raises(ValueError, match="cannot be read"):
        read_checkpoint(path)


def test_paths_that_are_no_file(tmp_path):
    with pytest.raises(ValueError, match="must be a file, got nothing at"):
        read_checkpoint(tmp_path / "none.pth")
    with pytest.raises(ValueError, match="a folder without a TensorFlow checkpoint"):
        read_checkpoint(tmp_path)
    (tmp_path / "weights.onnx").touch()
    with pytest.raises(ValueError, match=r"must end in one of .*got weights\.onnx"):
        read_checkpoint(tmp_path / "weights.onnx")


def test_safetensors(tmp_path):
    save_file(STATE, tmp_path / "model.safetensors")
    assert_same(read_checkpoint(tmp_path / "model.safetensors"), STATE)


def test_names_of_variables_keep_their_slashes(tmp_path):
    arrays = {"aspp0/BatchNorm/gamma": np.ones(3, np.float32), "global_step": np.array(9)}
    np.savez_compressed(tmp_path / "variables.npz", **arrays, allow_pickle=False)
    read = read_checkpoint(tmp_path / "variables.npz")
    assert_same(read, {name: torch.from_numpy(array) for name, array in arrays.items()})


def test_arrays_of_objects_are_refused(tmp_path):
    np.savez(tmp_path / "objects.npz", a=np.array([{}], object))
    with pytest.raises(ValueError, match="cannot be read"):
        read_checkpoint(tmp_path / "objects.npz")


@pytest.mark.parametrize("prefix", ["", "model_weights/"])
def test_hdf5_names_are_paths(tmp_path, prefix):
    names = ("aspp0/aspp0/kernel:0", "aspp0_BN/gamma:0")
    with h5py.File(tmp_path / "model.h5", "w") as file:
        for index, name in enumerate(names):
            file[prefix + name] = np.full((2, 3), index, np.float32)
        file.create_group("top_level_model_weights")
    read = read_checkpoint(tmp_path / "model.h5")
    expected = {name: torch.full((2, 3), float(i)) for i, name in enumerate(names)}
    assert_same(read, expected)


@pytest.mark.parametrize("value", ["text", h5py.Empty("f")])
def test_hdf5_of_other_things_is_refused(tmp_path, value):
    with h5py.File(tmp_path / "model.h5", "w") as file:
        file["a"], file["b"] = np.ones(1), value
    with pytest.raises(ValueError, match="got b and 0 more that are not"):
        read_checkpoint(tmp_path / "model.h5")


def test_without_h5py(tmp_path, monkeypatch):
    write_hdf5(tmp_path / "model.h5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ValueError, match=r"pip install 'atrous\[keras\]'"):
        read_checkpoint(tmp_path / "model.h5")


@pytest.fixture
def checkpoint(tmp_path):
    """The names of a TensorFlow checkpoint's files; what is in them is a stand-in's."""
    for ending in ("index", "data-00000-of-00001"):
        (tmp_path / f"model.ckpt.{ending}").touch()
    return tmp_path / "model.ckpt"


def test_without_tensorflow(checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    message = r"pip install 'atrous\[tensorflow\]', or write \.npz.*numpy\.savez"
    with pytest.raises(ValueError, match=message) as error:
        read_checkpoint(checkpoint)
    compile(str(error.value).partition("tensorflow: ")[2], "advice", "exec")


class Reader:
    """What ``tf.train.load_checkpoint`` gives, as its documentation has it."""

    tensors = {  # noqa: RUF012
        "logits/semantic/biases": np.ones(2, np.float32),
        "global_step": np.int64(3),
        "_CHECKPOINTABLE_OBJECT_GRAPH": b"text",
    }

    def get_variable_to_shape_map(self):
        return {name: np.shape(value) for name, value in self.tensors.items()}

    def get_tensor(self, name):
        return self.tensors[name]


@pytest.mark.parametrize("given", ["", ".index", "/.."])
def test_tensorflow_by_a_stand_in(checkpoint, given, monkeypatch):
    """The package itself is too large for the tests: this holds our side of it alone."""
    asked = []
    module = types.ModuleType("tensorflow")
    module.errors = types.SimpleNamespace(OpError=OSError)
    module.train = types.SimpleNamespace(
        load_checkpoint=lambda prefix: asked.append(prefix) or Reader()
    )
    monkeypatch.setitem(sys.modules, "tensorflow", module)
    folder = checkpoint.parent
    read = read_checkpoint(folder if given == "/.." else f"{checkpoint}{given}")
    assert asked == [str(checkpoint)]
    assert read.keys() == {"logits/semantic/biases", "global_step"}
    assert read["global_step"] == 3


def test_a_folder_of_several_checkpoints(checkpoint):
    (checkpoint.parent / "model.ckpt-30000.index").touch()
    with pytest.raises(ValueError, match=r"got 2; name one"):
        read_checkpoint(checkpoint.parent)
