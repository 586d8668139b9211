import mteb
import pytest
from local_tasks import TextRetrieval

from mmretrieval import Retriever
from mmretrieval.export.mteb_meta import declared

MBEIR = {
    "visualnews": ["VisualNewsT2IRetrieval", "VisualNewsI2TRetrieval"],
    "mscoco": ["MSCOCOT2IRetrieval", "MSCOCOI2TRetrieval"],
    "fashion200k": ["Fashion200kT2IRetrieval", "Fashion200kI2TRetrieval"],
    "webqa": ["WebQAT2TRetrieval", "WebQAT2ITRetrieval"],
    "edis": ["EDIST2ITRetrieval"],
    "nights": ["NIGHTSI2IRetrieval"],
    "oven": ["OVENIT2TRetrieval", "OVENIT2ITRetrieval"],
    "infoseek": ["InfoSeekIT2TRetrieval", "InfoSeekIT2ITRetrieval"],
    "fashioniq": ["FashionIQIT2IRetrieval"],
    "cirr": ["CIRRIT2IRetrieval"],
}
"""The 16 dataset-tasks of M-BEIR as mteb calls them."""


def test_the_meta_says_what_the_retriever_is(retriever):
    meta = retriever.mteb_model_meta
    assert meta.name == "mmretrieval/a-run"
    assert meta.revision == retriever.encoder.embedding_hash()
    assert meta.embed_dim == 64
    assert meta.max_tokens == retriever.encoder.max_text_tokens
    assert meta.n_parameters == sum(p.numel() for p in retriever.encoder.parameters())
    assert 0 < meta.n_embedding_parameters < meta.n_parameters
    assert meta.modalities == ["text", "image"]
    assert meta.similarity_fn_name == "cosine"
    assert meta.use_instructions
    assert meta.adapted_from is None, "the base is a folder"
    assert retriever.mteb_model_meta is meta, "its hash reads all weights: once is enough"


def test_the_training_data_is_that_of_the_run(retriever):
    meta = retriever.mteb_model_meta
    assert meta.training_datasets == {"mscoco", "scenecaptions", *MBEIR["mscoco"]}
    assert meta.is_zero_shot_on(["MSCOCOT2IRetrieval"]) is False
    assert meta.is_zero_shot_on(["NFCorpus"]) is True


def test_unknown_training_data_is_declared_as_unknown(retriever):
    unknown = Retriever(retriever.encoder)
    assert unknown.mteb_model_meta.training_datasets is None
    assert unknown.mteb_model_meta.is_zero_shot_on(["NFCorpus"]) is None


@pytest.mark.parametrize("name", MBEIR)
def test_a_data_set_of_mbeir_declares_its_tasks_in_mteb(name):
    assert declared([name]) == {name, *MBEIR[name]}
    assert all(mteb.get_task(task).metadata.name == task for task in MBEIR[name])


def test_a_data_set_of_beir_declares_its_task_in_mteb():
    assert declared(["msmarco"]) >= {"msmarco", "MSMARCO"}
    assert declared(["scenecaptions"]) == {"scenecaptions"}


def test_other_settings_share_no_results(retriever, tmp_path):
    """mteb takes a saved result for the same name, revision and experiment."""
    cache = mteb.ResultCache(tmp_path)
    models = [
        retriever,
        Retriever(retriever.encoder, dim=8, name="a run"),
        retriever.for_mteb({"LocalText": "Other."}),
        retriever.for_mteb({"LocalText": "Another."}),
    ]
    paths = {cache.get_task_result_path("LocalText", model.mteb_model_meta) for model in models}
    assert len(paths) == 4


def test_a_saved_result_is_found_again(retriever, tmp_path, monkeypatch):
    options = {"cache": mteb.ResultCache(tmp_path), "co2_tracker": False, "show_progress_bar": False}
    first = mteb.evaluate(retriever, TextRetrieval(), **options)
    monkeypatch.setattr(Retriever, "encode", None)
    second = mteb.evaluate(retriever, TextRetrieval(), **options)
    assert first.task_results[0].get_score() == second.task_results[0].get_score()
