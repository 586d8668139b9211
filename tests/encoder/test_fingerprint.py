import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmretrieval.encoder import fingerprint as module
from mmretrieval.encoder.fingerprint import fingerprint, model_folder, read_json, weight_files
from mmretrieval.errors import UserError


def tensors():
    """Tensors of all ranks and of types that NumPy lacks."""
    generator = torch.Generator().manual_seed(0)
    noise = {
        "matrix": (40, 8),
        "wide": (3, 5000),
        "experts": (2, 40, 4096),
        "kernel": (20, 3, 4, 4),
        "vector": (5000,),
    }
    made = {name: torch.randn(shape, generator=generator) for name, shape in noise.items()}
    return made | {
        "half": torch.randn(3, 4, generator=generator).bfloat16(),
        "eighth": torch.randn(3, 4, generator=generator).to(torch.float8_e4m3fn),
        "flags": torch.tensor([True, False, True]),
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 4),
    }


def saved(folder, files):
    """Save files by name in a new folder."""
    folder.mkdir()
    for name, state in files.items():
        save_file(state, folder / name)
    return folder


@pytest.fixture
def whole(tmp_path):
    return saved(tmp_path / "whole", {"model.safetensors": tensors()})


def split(state):
    names = sorted(state)
    return {f"{part}.safetensors": {name: state[name] for name in names[part::3]} for part in range(3)}


def index_of(files):
    return json.dumps({"weight_map": {name: file for file, state in files.items() for name in state}})


def test_the_split_into_files_does_not_matter(tmp_path, whole):
    files = split(tensors())
    sharded = saved(tmp_path / "sharded", files)
    assert fingerprint(sharded) == fingerprint(whole)
    (sharded / "model.safetensors.index.json").write_text(index_of(files))
    assert fingerprint(sharded) == fingerprint(whole)
    assert len(fingerprint(whole)) == 32


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("matrix", (0, 0)),
        ("matrix", (39, 7)),
        ("wide", (1, 4095)),
        ("experts", (0, 0, 0)),
        ("experts", (1, 39, 4095)),
        ("kernel", (19, 2, 3, 3)),
        ("vector", (4095,)),
        ("half", (1, 1)),
        ("eighth", (2, 3)),
        ("flags", (0,)),
        ("scalar", ()),
    ],
)
def test_a_sampled_value_changes_it(tmp_path, whole, name, place):
    state = tensors()
    state[name][place] = 1 - state[name][place].float()
    assert fingerprint(saved(tmp_path / "changed", {"model.safetensors": state})) != fingerprint(whole)


def test_a_value_between_the_sampled_rows_is_not_seen_as_documented(tmp_path, whole):
    state = tensors()
    state["matrix"][1] += 1
    state["vector"][4096] += 1
    assert fingerprint(saved(tmp_path / "changed", {"model.safetensors": state})) == fingerprint(whole)


def renamed(state):
    state["other"] = state.pop("matrix")


def reshaped(state):
    state["matrix"] = state["matrix"].reshape(8, 40)


def retyped(state):
    state["empty"] = state["empty"].half()


def dropped(state):
    del state["empty"]


@pytest.mark.parametrize("change", [renamed, reshaped, retyped, dropped])
def test_names_shapes_and_types_change_it(tmp_path, whole, change):
    state = tensors()
    change(state)
    assert fingerprint(saved(tmp_path / "changed", {"model.safetensors": state})) != fingerprint(whole)


def test_up_to_sixteen_rows_every_one_is_sampled():
    for rows in (1, 2, 15, 16, 17, 1000):
        matrix = torch.arange(rows).unsqueeze(1)
        seen = [int(row) for row in module._sampled_rows(matrix, [rows, 1])]
        assert len(seen) == len(set(seen)) == min(rows, 16)
        assert (seen[0], seen[-1]) == (0, rows - 1)


def test_a_file_beside_the_model_does_not_count(tmp_path, whole):
    alone = fingerprint(whole)
    save_file({"lora": torch.ones(2)}, whole / "adapter_model.safetensors")
    assert fingerprint(whole) == alone
    assert weight_files(whole) == [whole / "model.safetensors"]


def test_what_cannot_be_read_is_named(tmp_path, whole):
    with pytest.raises(UserError, match=r"no \*\.safetensors file"):
        fingerprint(saved(tmp_path / "none", {}))

    same = {"matrix": torch.ones(2)}
    with pytest.raises(UserError, match=r"b\.safetensors: the tensor 'matrix' is also in another file"):
        fingerprint(saved(tmp_path / "twice", {"a.safetensors": same, "b.safetensors": same}))

    content = (whole / "model.safetensors").read_bytes()
    for damaged in (b"", b"no header at all", content[:-5], b"\xff" * 8 + content[8:]):
        (whole / "model.safetensors").write_bytes(damaged)
        with pytest.raises(UserError, match=r"model\.safetensors: cannot be read"):
            fingerprint(whole)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ('{"weight_map": {"a": "gone.safetensors"}}', "names gone.safetensors, which is not there"),
        ('{"weight_map": {"a": "../whole/model.safetensors"}}', "files of the same folder"),
        ('{"weight_map": {}}', "files of the same folder"),
        ("{}", "files of the same folder"),
        ("[]", "a list instead of an object"),
        ("{", "is no JSON file"),
    ],
)
def test_a_wrong_index_is_named(tmp_path, whole, index, message):
    folder = saved(tmp_path / "sharded", {})
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UserError, match=message):
        fingerprint(folder)


def test_json_of_others_is_read_up_to_a_limit(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"a": 1}')
    assert read_json(path, 8) == {"a": 1}
    with pytest.raises(UserError, match="8 bytes, more than the 7"):
        read_json(path, 7)
    path.write_text("[" * 100_000)
    with pytest.raises(UserError, match="is no JSON file"):
        read_json(path, 2**20)
    path.write_bytes(b"\xff")
    with pytest.raises(UserError, match="is no JSON file"):
        read_json(path, 2**20)
    with pytest.raises(UserError, match="cannot be read"):
        read_json(tmp_path, 2**20)


def test_a_folder_is_its_own_model_folder(tiny_mllm, tmp_path):
    assert model_folder(str(tiny_mllm)) == tiny_mllm
    state = load_file(tiny_mllm / "model.safetensors")
    assert fingerprint(tiny_mllm) == fingerprint(saved(tmp_path / "copy", {"a.safetensors": state}))


def test_a_hub_name_is_found_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--some--model"
    for branch, commit in (("main", "a" * 40), ("old", "b" * 40)):
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text("{}")
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / branch).write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert model_folder("some/model") == repository / "snapshots" / ("a" * 40)
    assert model_folder("some/model", "old") == repository / "snapshots" / ("b" * 40)
    with pytest.raises(UserError, match="model 'some/other': found neither"):
        model_folder("some/other")


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(UserError, match=r"there is no config\.json"):
        model_folder(str(tmp_path))
    with pytest.raises(UserError, match="found neither"):
        model_folder(str(tmp_path / "missing"))


def test_a_hub_models_weights_are_fetched_only_when_asked_for(tmp_path, monkeypatch):
    asked = []

    def download(name, revision, allow_patterns):
        asked.append((name, revision, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr("mmretrieval.encoder.fingerprint.snapshot_download", download)
    assert model_folder("someone/model", "v1", fetch=True) == tmp_path
    ((name, revision, patterns),) = asked
    assert (name, revision) == ("someone/model", "v1")
    assert {"*.safetensors", "tokenizer.json"} <= set(patterns)
    assert not any(pattern.endswith((".py", ".bin")) for pattern in patterns)
    (tmp_path / "config.json").write_text("{}")
    assert model_folder(str(tmp_path), fetch=True) == tmp_path
    assert len(asked) == 1
