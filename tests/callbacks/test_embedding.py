"""Embedding gives each row its own vector and leaves no trace."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader

from callbacks.collaborators import data_of, retriever_of
from callbacks.embedding import embed
from callbacks.embedding_stores import CONTENTS
from callbacks.searching import search
from mmretrieval.index import DamagedEmbeddingsError, EmbeddingStore, ExactIndex
from mmretrieval.index.holding import release

CPU = torch.device("cpu")


@pytest.fixture
def trainer(fakes, tmp_path):
    return fakes.make_trainer(tmp_path)


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-6), ("float16", 1e-3), ("bfloat16", 4e-3)])
def test_rows_get_their_own_embedding_whatever_the_order_of_batches(trainer, module, data, dtype, error):
    rows = np.random.default_rng(2).permutation(96)[:61]
    found = embed(trainer, module, data.candidate_table(), rows, dtype=dtype).vectors_of(rows)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, data.vectors(module, "candidates")[rows], atol=error)


def test_what_is_there_is_not_embedded_again(trainer, module, data):
    embed(trainer, module, data.candidate_table(), np.arange(0, 60, 2))
    store = embed(trainer, module, data.candidate_table(), np.arange(30))
    assert sorted(data.embedded[0][1]) == list(range(0, 60, 2))
    assert sorted(data.embedded[1][1]) == list(range(1, 30, 2))
    rows = np.arange(30)
    np.testing.assert_allclose(store.vectors_of(rows), data.vectors(module, "candidates")[rows], atol=1e-6)
    embed(trainer, module, data.candidate_table(), rows)
    assert len(data.embedded) == 2


@pytest.mark.parametrize("seen_missing", [[], [3, 8, 9]])
def test_what_is_missing_is_what_rank_0_says(trainer, module, data, monkeypatch, seen_missing):
    """Ranks look at different times, and another job may write in between."""
    rows = np.arange(30)
    embed(trainer, module, data.candidate_table(), rows)
    answers = [np.array(seen_missing, np.int64)]
    monkeypatch.setattr(trainer.strategy, "broadcast", lambda own: answers.pop() if answers else own)
    embed(trainer, module, data.candidate_table(), rows)
    assert [sorted(made) for _, made, *_ in data.embedded[1:]] == ([seen_missing] if seen_missing else [])


def test_other_weights_embed_anew_and_leave_one_store(trainer, module, data, tmp_path):
    rows = np.arange(30)
    embed(trainer, module, data.candidate_table(), rows)
    embed(trainer, module, data.query_table("test"), rows)
    with torch.no_grad():
        module.encoder.tokens.mul_(torch.randn_like(module.encoder.tokens))
    store = embed(trainer, module, data.candidate_table(), rows)
    np.testing.assert_allclose(store.vectors_of(rows), data.vectors(module, "candidates")[rows], atol=1e-6)
    assert kinds(tmp_path) == ["candidates", "test-queries"]


def kinds(folder):
    """The tables that have a store, once for each store."""
    names = [path.name for path in (folder / "embeddings").iterdir() if path.is_dir()]
    return sorted(name.rsplit("-", 2)[0] for name in names)


def change(module):
    with torch.no_grad():
        module.encoder.tokens.mul_(torch.randn_like(module.encoder.tokens))


def of(data, source, version=""):
    """The candidates of other data, or of the same data with other contents."""
    data.source, data.version = source, version
    table = data.candidate_table()
    data.source, data.version = "data", ""
    return table


def test_data_with_tables_of_the_same_names_keep_their_stores(trainer, module, data, tmp_path):
    rows = np.arange(30)
    first = embed(trainer, module, of(data, "data"), rows)
    change(module)
    other = embed(trainer, module, of(data, "texts"), rows)
    assert first.present(rows).all()
    assert other.present(rows).all()
    embed(trainer, module, of(data, "data"), rows)
    assert not first.folder.exists(), "the same data by other weights"
    assert other.present(rows).all()
    assert kinds(tmp_path) == ["candidates"] * 2


HOLD = """
import sys
from pathlib import Path
from mmretrieval.index.holding import hold
hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_store_that_another_process_uses_stays(trainer, module, data):
    rows = np.arange(10)
    used = embed(trainer, module, data.candidate_table(), rows)
    release(used.folder)
    words = [sys.executable, "-c", HOLD, str(used.folder)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        change(module)
        mine = embed(trainer, module, data.candidate_table(), rows)
        assert used.present(rows).all()
        other.kill()  # as a machine does that runs out of memory
    change(module)
    embed(trainer, module, data.candidate_table(), rows)
    assert not used.folder.exists()
    assert not mine.folder.exists()


# --- the same contents in another table


def grown(data, version="two", extra=4, moved=3):
    """The table with new rows before and after the others."""
    table = of(data, "data", version)
    keys = table.contents()
    rows = np.concatenate([np.arange(90, 90 + moved), np.arange(0, 90), np.arange(90 + moved, 90 + extra)])

    def loader(batches, count):
        return table.make_loader(([int(rows[row]) for row in batch] for batch in batches), count)

    place = np.argsort(rows)

    def numbered(batches, count):
        for batch in loader(batches, count):
            yield replace_rows(batch, torch.from_numpy(place)[batch.rows])

    return rows, replace(
        table,
        ids=table.ids[rows],
        modalities=table.modalities[rows],
        sizes=table.sizes[rows],
        pictures=table.pictures[rows],
        contents=lambda: keys[rows],
        make_loader=numbered,
    )


def replace_rows(batch, rows):
    return type(batch)(batch.inputs, rows)


def test_a_candidate_that_is_added_is_all_that_is_embedded(trainer, module, data, capsys):
    before = embed(trainer, module, data.candidate_table(), np.arange(90))
    rows, table = grown(data)
    store = embed(trainer, module, table, np.arange(94))
    assert store.folder != before.folder
    assert sorted(data.embedded[1][1]) == [90, 91, 92, 93]
    found = store.vectors_of(np.arange(94))
    np.testing.assert_allclose(found, data.vectors(module, "candidates")[rows], atol=1e-6)
    places = np.flatnonzero(rows < 90)
    assert np.array_equal(found[places], before.vectors_of(rows[places])), "copied bit for bit"
    assert (
        "of 94, 0 are kept, 90 have contents that are kept elsewhere, 4 are made now"
        in capsys.readouterr().out
    )
    embed(trainer, module, table, np.arange(94))
    assert len(data.embedded) == 2
    assert [shard.modalities.tolist() for shard in store.shards()] == [
        table.modalities[shard.rows].tolist() for shard in store.shards()
    ]


@pytest.mark.parametrize("what", ["weights", "dtype"])
def test_contents_are_not_copied_from_other_weights_or_types(trainer, module, data, what):
    embed(trainer, module, data.candidate_table(), np.arange(90))
    if what == "weights":
        change(module)
    _, table = grown(data)
    embed(trainer, module, table, np.arange(94), dtype="float16" if what == "dtype" else "float32")
    assert len(data.embedded[1][1]) == 94


def test_a_kill_while_copying_loses_one_shard_at_most(trainer, module, data, monkeypatch):
    embed(trainer, module, data.candidate_table(), np.arange(90))
    rows, table = grown(data)
    monkeypatch.setattr("callbacks.embedding_stores._COPIED_AT_ONCE", 20)
    write, written = EmbeddingStore.write, []

    def killed(self, *shard):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(shard[0])
        return write(self, *shard)

    with monkeypatch.context() as patch:
        patch.setattr(EmbeddingStore, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            embed(trainer, module, table, np.arange(94))
    store = embed(trainer, module, table, np.arange(94))
    assert len(data.embedded[1][1]) == 4
    assert [len(shard) for shard in store.shards() if shard.path.stem in written] == [20, 20]
    np.testing.assert_allclose(
        store.vectors_of(np.arange(94)), data.vectors(module, "candidates")[rows], atol=1e-6
    )


def test_keys_that_are_damaged_are_named(trainer, module, data):
    before = embed(trainer, module, data.candidate_table(), np.arange(90))
    (before.folder / CONTENTS).write_bytes(b"\x93NUMPY")
    with pytest.raises(DamagedEmbeddingsError, match=r"contents\.npy cannot be read"):
        embed(trainer, module, grown(data)[1], np.arange(94))
    np.save(before.folder / CONTENTS, np.zeros(3, np.int64))
    with pytest.raises(DamagedEmbeddingsError, match="no key for each row"):
        embed(trainer, module, grown(data)[1], np.arange(94))


def test_a_killed_round_goes_on_with_the_next_unit(trainer, module, data, monkeypatch):
    write, written = EmbeddingStore.write, []

    def killed(self, *shard):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(shard[0])
        return write(self, *shard)

    rows = np.arange(96)
    with monkeypatch.context() as patch:
        patch.setattr(EmbeddingStore, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            embed(trainer, module, data.candidate_table(), rows)
    store = embed(trainer, module, data.candidate_table(), rows)
    done = 2 * 4 * data.batch  # two units of four batches
    assert len(data.embedded[1][1]) == 96 - done
    np.testing.assert_allclose(store.vectors_of(rows), data.vectors(module, "candidates"), atol=1e-6)


def test_modes_and_random_state_are_left_as_they_were(trainer, module, data):
    module.train()
    module.dropout.eval()
    state = torch.get_rng_state()
    embed(trainer, module, data.candidate_table(), np.arange(20))
    assert module.training
    assert module.encoder.training
    assert not module.dropout.training
    assert torch.equal(state, torch.get_rng_state())
    assert set(module.encoder.seen_training) == {(False, False)}


def test_modes_are_restored_after_an_error(trainer, module, data):
    def broken(rows):
        raise RuntimeError("damaged")

    module.train()
    module.encoder.forward = broken
    with pytest.raises(RuntimeError, match="damaged"):
        embed(trainer, module, data.candidate_table(), np.arange(20))
    assert module.encoder.training


def test_an_embedding_that_is_not_finite_is_refused(trainer, module, data):
    rows = np.arange(30)
    with torch.no_grad():
        module.encoder.tokens[data.tokens["candidates"][17, 0]] = float("nan")
    bad = np.flatnonzero(~np.isfinite(data.vectors(module, "candidates")[rows]).all(axis=1))
    ids = "|".join(data.corpus.candidate_id(row) for row in bad)
    with pytest.raises(ValueError, match=rf"embeddings of candidates are not finite, as that of ({ids}):"):
        embed(trainer, module, data.candidate_table(), rows)


def test_a_loader_that_gives_other_rows_is_refused(trainer, module, data):
    table = data.candidate_table()

    def changed(change):
        def loader(batches, count):
            return table.make_loader([change(batch) for batch in batches], count)

        return replace(table, make_loader=loader)

    cases = {
        "1 of 5 not at all": lambda rows: [*rows[1:], 77],
        "did not give all rows": lambda rows: rows[1:],
        "0 of 5 not at all": lambda rows: [*rows, rows[0]],
    }
    for message, change in cases.items():
        with pytest.raises(ValueError, match=message):
            embed(trainer, module, changed(change), np.arange(5))
    none = replace(table, make_loader=lambda batches, count: DataLoader([], batch_size=1))
    with pytest.raises(ValueError, match="did not give all rows"):
        embed(trainer, module, none, np.arange(5))


@pytest.mark.parametrize(("rows", "message"), [([], "no candidates"), ([3, 4, 3], "not distinct")])
def test_rows_must_be_there_and_distinct(trainer, module, data, rows, message):
    with pytest.raises(ValueError, match=message):
        embed(trainer, module, data.candidate_table(), np.array(rows, dtype=np.int64))


def test_a_pool_is_searched_by_row_and_the_index_that_is_passed_stays_empty(trainer, module, data):
    pool = np.array([70, 3, 41, 8, 22, 9])
    rows = np.arange(96)
    store = embed(trainer, module, data.candidate_table(), rows)
    vectors, index = data.vectors(module, "candidates"), ExactIndex()
    expected = np.sort(pool)[np.argsort(-(vectors[:5] @ vectors[np.sort(pool)].T), axis=1, kind="stable")]
    for _ in range(2):
        scores, found = search(index, store, pool, vectors[:5], 4, CPU)
        assert found.tolist() == expected[:, :4].tolist()
        np.testing.assert_allclose(
            scores, np.take_along_axis(vectors[:5] @ vectors.T, found, axis=1), atol=1e-6
        )
    assert len(index) == 0


def test_the_precision_of_the_trainer_is_used(fakes, tmp_path, module, data):
    seen = []

    def forward(inputs):
        seen.append((module.encoder.tokens @ module.encoder.tokens.T).dtype)
        return module.encoder.tokens[inputs.input_ids][:, 0].bfloat16()

    module.encoder.forward = forward
    trainer = fakes.make_trainer(tmp_path, precision="bf16-mixed")
    rows = np.arange(9)
    found = embed(trainer, module, data.candidate_table(), rows).vectors_of(rows)
    assert set(seen) == {torch.bfloat16}
    assert found.dtype == np.float32


def test_a_module_that_is_no_retriever_is_named(trainer):
    with pytest.raises(
        MisconfigurationException, match="LightningModule has no encoder, weights_hash, embedding_hash"
    ):
        retriever_of(LightningModule())
    with pytest.raises(MisconfigurationException, match="found NoneType"):
        data_of(trainer)
