from __future__ import annotations

import re

import pytest

from data_modules.conversion.composed import convert_composed
from data_modules.conversion.merging import merge
from data_modules.conversion.text import convert_beir
from data_modules.formats.cirr import CIRRReader
from data_modules.formats.mbeir import MBEIRReader
from data_modules.formats.records import DataError
from data_modules.formats.side_files import GROUPS, read_query_lists


@pytest.fixture
def roots(tmp_path, releases):
    """A text set and a composed set, both with a test split."""
    releases.beir(tmp_path / "tiny")
    convert_beir(tmp_path / "tiny", tmp_path / "text", name="tiny", dataset_id=100, progress=False)
    releases.cirr(tmp_path / "data")
    options = releases.options("cirr_rc2", into="test")
    convert_composed(CIRRReader(tmp_path / "data"), tmp_path / "composed", options)
    return [tmp_path / "text", tmp_path / "composed"]


def everything(root, split):
    reader = MBEIRReader(root)
    pools = {pool: list(reader.candidates(pool)) for pool in reader.pools}
    return pools, list(reader.queries(split)), list(reader.instructions.values())


@pytest.mark.parametrize("copy", [True, False])
def test_one_pool_has_the_candidates_of_both(tmp_path, releases, roots, copy):
    summary = merge(roots, tmp_path / "out", copy_images=copy, progress=False)
    assert summary.datasets == {"tiny": 100, "cirr_rc2": 20}
    assert summary.queries == {"val": {"tiny_task1": 2}, "test": {"tiny_task1": 2, "cirr_rc2_task7": 3}}
    assert summary.candidates == {"global_val": 5, "global_test": 14}
    assert summary.images == 9
    assert summary.notes == [f"val: {roots[1]} has no such split"]
    (text, asked, said), (composed, shown, told) = (everything(root, "test") for root in roots)
    pools, queries, instructions = everything(tmp_path / "out", "test")
    assert pools["global_test"] == text["global_test"] + composed["global_test"]
    for parts in (text, composed):
        local = {name: rows for name, rows in parts.items() if name.startswith("local")}
        assert local
        assert local.items() <= {name: pools[name] for name in local}.items()
    assert sorted(queries, key=lambda q: q.id) == sorted(asked + shown, key=lambda q: q.id)
    assert instructions == said + told
    packed = releases.packed(tmp_path / "out")
    assert len(packed.queries("test")) == 5
    assert packed.pool("global_test")[:5] == ["d1", "d/2", "q1", "d4", "d5"]
    assert len(read_query_lists(tmp_path / "out", GROUPS)) == 3
    judged = "qrels/test/mbeir_tiny_task1_test_qrels.txt"
    assert (tmp_path / "out" / judged).read_bytes() == (roots[0] / judged).read_bytes(), "with its grades"


def test_names_numbers_and_ids_that_clash_are_refused(tmp_path, releases, roots):
    convert = {"name": "tiny", "dataset_id": 7, "progress": False}
    convert_beir(tmp_path / "tiny", tmp_path / "name", **convert)
    convert_beir(tmp_path / "tiny", tmp_path / "number", **(convert | {"name": "other", "dataset_id": 100}))
    with pytest.raises(DataError, match=f"{tmp_path / 'name'}: data set 'tiny' is in {roots[0]} too"):
        merge([roots[0], tmp_path / "name"], tmp_path / "out", progress=False)
    with pytest.raises(DataError, match=f"{tmp_path / 'number'}: data set 100 is in {roots[0]} too"):
        merge([roots[0], tmp_path / "number"], tmp_path / "out", progress=False)
    with pytest.raises(DataError, match="1 folders to merge: give two or more"):
        merge(roots[:1], tmp_path / "out", progress=False)
    with pytest.raises(DataError, match="data set 'tiny' is in"):
        merge([roots[0], tmp_path / "name"], tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_candidate_with_an_id_of_another_folder_is_named(tmp_path, roots):
    pool = roots[1] / "cand_pool/global/mbeir_union_test_cand_pool.jsonl"
    lines = pool.read_text().splitlines()
    pool.write_text("\n".join([*lines, lines[0].replace('"20:1"', '"100:77"')]) + "\n")
    with pytest.raises(DataError, match=re.escape(f"{pool}:10: '100:77' is an id of {roots[0]}")):
        merge(roots, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_images_at_the_same_place_are_refused(tmp_path, roots):
    image = next((roots[1] / "mbeir_images").rglob("*.png"))
    other = roots[0] / image.relative_to(roots[1])
    other.parent.mkdir(parents=True)
    other.write_bytes(b"x")
    with pytest.raises(DataError, match=re.escape(f"{image}: another of the folders has an image")):
        merge(roots, tmp_path / "out", progress=False)


def test_mixtures_are_joined_if_all_have_one(tmp_path, data, known, roots):
    summary = merge([data.root, roots[0]], tmp_path / "out", progress=False)
    reader = MBEIRReader(tmp_path / "out")
    assert reader.splits == ("train", "val", "test")
    assert len(list(reader.queries("train", mixture="union"))) == len(known.QUERIES["train"]) + 2
    assert [note.split(":")[0] for note in summary.notes] == ["train", "val"]
    assert summary.candidates["global_test"] == len(known.CANDIDATES) + 5
