"""What is damaged, or cannot be exported as asked, is refused."""

from __future__ import annotations

import json
import shutil

import pytest
from runs_to_export import exported
from safetensors.torch import load_file, save_file

from mmretrieval import Retriever
from mmretrieval.errors import UserError
from mmretrieval.export.chat_template import chat_template


@pytest.mark.parametrize("change", ["missing", "unexpected", "another shape"])
@pytest.mark.parametrize("form", ["merged", "adapter"])
def test_weights_that_do_not_fit_are_refused(run, tmp_path, form, change):
    folder, _ = run
    exported(folder, tmp_path / "out", form=form, modules="none")
    path = tmp_path / "out" / ("model.safetensors" if form == "merged" else "adapter.safetensors")
    state = load_file(path)
    name = next(name for name, tensor in sorted(state.items()) if tensor.dim() == 2)
    tensor = state.pop(name)
    if change == "another shape":
        state[name] = tensor[:-1].clone()
    elif change == "unexpected":
        state |= {name: tensor, f"{name}.more": tensor.clone()}
    save_file(state, path, {"format": "pt"})
    with pytest.raises(UserError, match=r"do not fit the model|does not fit the encoder"):
        Retriever.from_pretrained(tmp_path / "out")


def test_other_weights_of_the_same_shapes_are_refused(run, tmp_path):
    folder, _ = run
    exported(folder, tmp_path / "out", modules="none")
    path = tmp_path / "out/model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    with pytest.raises(UserError, match="was trained from other weights"):
        Retriever.from_pretrained(tmp_path / "out")


def test_four_bits_are_not_merged(run, tmp_path):
    folder = shutil.copytree(run[0], tmp_path / "run")
    path = folder / "adapter/retriever.json"
    settings = json.loads(path.read_text())
    settings["loading"]["quantization"] = "nf4"
    path.write_text(json.dumps(settings))
    with pytest.raises(UserError, match="cannot be merged into weights of 4 bits"):
        exported(folder, tmp_path / "out")


def test_an_export_that_embeds_otherwise_is_refused(run, tmp_path, monkeypatch):
    def without_query(*given):
        return chat_template(*given).replace('"Query: "', '""')

    monkeypatch.setattr("mmretrieval.export.stock_modules.chat_template", without_query)
    with pytest.raises(UserError, match="SentenceTransformer embeds otherwise than the trained retriever"):
        exported(run[0], tmp_path / "out")


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"form": "half"}, "choose one of merged, adapter, both"),
        ({"form": "adapter", "modules": "stock"}, "adapters need a module of this project"),
        ({"form": "adapter", "dtype": "float16"}, "trained weights keep their type"),
        ({"licence": "my own!"}, "give an identifier of the hub"),
    ],
)
def test_wishes_that_contradict_are_refused(run, tmp_path, wishes, message):
    with pytest.raises(UserError, match=message):
        exported(run[0], tmp_path / "out", **wishes)
