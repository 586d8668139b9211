"""Embedding gives each row its own vector and leaves no trace."""

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule

from callbacks.embedding import data_of, embed, retriever_of, search
from mmretrieval.index import ExactIndex

CPU = torch.device("cpu")


@pytest.fixture
def trainer(fakes, tmp_path):
    return fakes.make_trainer(tmp_path)


def test_rows_get_their_own_embedding_whatever_the_order_of_batches(trainer, module, data):
    rows = np.random.default_rng(2).permutation(96)[:61]
    found = embed(trainer, module, data.candidate_loader, rows, "candidates")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, data.vectors(module, "candidates")[rows], atol=1e-6)


def test_modes_and_random_state_are_left_as_they_were(trainer, module, data):
    module.train()
    module.dropout.eval()
    state = torch.get_rng_state()
    embed(trainer, module, data.candidate_loader, np.arange(20), "candidates")
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
        embed(trainer, module, data.candidate_loader, np.arange(20), "candidates")
    assert module.encoder.training


def test_an_embedding_that_is_not_finite_is_refused(trainer, module, data):
    rows = np.arange(30)
    with torch.no_grad():
        module.encoder.tokens[data.tokens["candidates"][17, 0]] = float("nan")
    bad = int((~np.isfinite(data.vectors(module, "candidates")[rows]).all(axis=1)).argmax())
    with pytest.raises(ValueError, match=rf"pool X are not finite, the first at place {bad}:"):
        embed(trainer, module, data.candidate_loader, rows, "pool X")


def test_a_loader_that_gives_other_rows_is_refused(trainer, module, data):
    def loader(change):
        return lambda rows: data.candidate_loader(change(rows))

    cases = {
        "not asked for": lambda rows: rows + 1,
        "1 of 5 rows never and 0 more": lambda rows: rows[1:],
        "0 of 5 rows never and 1 more": lambda rows: np.append(rows, 2),
        "5 of 5 rows never": lambda rows: rows[:0],
    }
    for message, change in cases.items():
        with pytest.raises(ValueError, match=message):
            embed(trainer, module, loader(change), np.arange(5), "candidates")


@pytest.mark.parametrize(("rows", "message"), [([], "no candidates"), ([3, 4, 3], "not distinct")])
def test_rows_must_be_there_and_distinct(trainer, module, data, rows, message):
    with pytest.raises(ValueError, match=message):
        embed(trainer, module, data.candidate_loader, np.array(rows, dtype=np.int64), "candidates")


def test_the_index_that_is_passed_stays_empty():
    vectors = np.eye(4, dtype=np.float32)
    index = ExactIndex()
    for _ in range(2):
        scores, rows = search(index, vectors, vectors[2:], 2, CPU)
        assert rows.tolist() == [[2, 0], [3, 0]]
        assert scores.tolist() == [[1, 0], [1, 0]]
    assert len(index) == 0


def test_the_precision_of_the_trainer_is_used(fakes, tmp_path, module, data):
    seen = []

    def forward(inputs):
        seen.append((module.encoder.tokens @ module.encoder.tokens.T).dtype)
        return module.encoder.tokens[inputs.input_ids][:, 0].bfloat16()

    module.encoder.forward = forward
    trainer = fakes.make_trainer(tmp_path, precision="bf16-mixed")
    found = embed(trainer, module, data.candidate_loader, np.arange(9), "candidates")
    assert set(seen) == {torch.bfloat16}
    assert found.dtype == np.float32


def test_a_module_that_is_no_retriever_is_named(trainer):
    with pytest.raises(MisconfigurationException, match="LightningModule has no encoder and no weights_hash"):
        retriever_of(LightningModule())
    with pytest.raises(MisconfigurationException, match="found NoneType"):
        data_of(trainer)
