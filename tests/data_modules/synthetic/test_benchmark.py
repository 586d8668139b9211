from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from types import SimpleNamespace

import pytest

from data_modules.formats.mbeir import MBEIRReader
from data_modules.formats.records import DataError
from data_modules.synthetic import scene_data
from data_modules.synthetic.benchmark import plans, write_benchmark
from data_modules.synthetic.scenes import COLOURS, HELD_OUT_PAIRS, SHAPES
from data_modules.synthetic.tasks import DATASETS, TASKS
from mmretrieval.content import Modality
from mmretrieval.tools.main import main

SPLITS = ("train", "val", "test")
SIZE = 192
SEED = 3
SCENE_TEXTS = ("scenenews", "shapecatalog", "scenecaptions")
_PAIR = re.compile(rf"\b({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})")


def _difference(one, two):
    groups = set(one.groups) ^ set(two.groups)
    if one.background != two.background:
        return "background" if not groups else "more"
    if len(one.groups) != len(two.groups) or len(groups) != 2:
        return "more"
    old, new = groups
    names = [n for n in ("shape", "colour", "size", "count", "place") if getattr(old, n) != getattr(new, n)]
    return names[0] if len(names) == 1 else "more"


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    """A small benchmark, read back, with the scene behind every picture that shows one."""
    scenes = {}
    picture = scene_data._picture

    def noted(out, dataset, source, scene):
        path = picture(out, dataset, source, scene)
        scenes[path] = scene
        return path

    root = tmp_path_factory.mktemp("synthetic") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scene_data, "_picture", noted)
        write_benchmark(root, seed=SEED, size=SIZE, progress=False)
    reader = MBEIRReader(root)
    return SimpleNamespace(
        root=root,
        reader=reader,
        scenes=scenes,
        pools={name: {c.id: c for c in reader.candidates(name)} for name in reader.pools},
        queries={split: list(reader.queries(split)) for split in SPLITS},
    )


def queries_of(benchmark, split, dataset, number):
    found = [q for q in benchmark.queries[split] if (q.dataset, q.task_id) == (dataset, number)]
    assert found
    return found


def test_there_are_16_dataset_tasks_of_all_8_types_with_four_instructions_each(benchmark):
    assert len(TASKS) == 16
    assert {task.number for task in TASKS} == {0, 1, 2, 3, 4, 6, 7, 8}
    assert {task.dataset for task in TASKS} == set(DATASETS)
    for split in SPLITS:
        assert benchmark.reader.tasks(split) == tuple(sorted(task.name for task in TASKS))
        counts = Counter(query.task for query in benchmark.queries[split])
        (wanted,) = (plan.queries for plan in plans(SIZE) if plan.split == split)
        assert counts == {task.name: wanted for task in TASKS}
    by_name = {task.name: task for task in TASKS}
    for query in benchmark.queries["train"]:
        task = by_name[query.task]
        assert query.instructions == task.prompts
        assert len(set(query.instructions)) == 4
        assert query.modality == task.query
        assert benchmark.pools["global_train"][query.positives[0]].modality == task.target


def test_train_is_about_as_large_as_asked_and_its_mixture_is_a_shuffle_of_it(benchmark):
    train = benchmark.queries["train"]
    union = list(benchmark.reader.queries("train", mixture="union"))
    assert len(train) == SIZE
    assert sorted(query.id for query in union) == sorted(query.id for query in train)
    halves = Counter(query.dataset for query in union[: SIZE // 2])
    assert all(halves[name] > 0 for name in DATASETS)


@pytest.mark.parametrize("split", SPLITS)
def test_positives_and_negatives_are_in_the_pools(benchmark, split):
    pool = benchmark.pools[f"global_{split}"]
    for query in benchmark.queries[split]:
        own = [id_ for id_ in query.positives if id_.split(":")[0] == query.id.split(":")[0]]
        assert own
        assert {*query.positives, *query.negatives} <= pool.keys()
        assert not {*query.positives} & {*query.negatives}
        if split != "train":
            assert {*own} <= benchmark.pools[f"local_{query.task}_{split}"].keys()
            assert benchmark.pools[f"local_{query.task}_{split}"].keys() <= pool.keys()
    filled = {query.dataset for query in benchmark.queries[split] if query.negatives}
    assert {"sceneqa", "scenearticles", "twinscenes", "scenechange"} <= filled


@pytest.mark.parametrize("split", SPLITS)
def test_no_positive_has_an_unlisted_copy(benchmark, split):
    copies = defaultdict(set)
    for candidate in benchmark.pools[f"global_{split}"].values():
        copies[candidate.text, candidate.image].add(candidate.id)
    content = {id_: key for key, ids in copies.items() for id_ in ids}
    for query in benchmark.queries[split]:
        assert {id_ for positive in query.positives for id_ in copies[content[positive]]} == {
            *query.positives
        }
        if query.modality is not Modality.TEXT or query.task_id == 1:
            assert (query.text, query.image) not in [content[positive] for positive in query.positives]
    shared = [ids for ids in copies.values() if len(ids) > 1]
    assert shared
    assert all({id_[0] for id_ in ids} == {"5", "6"} for ids in shared)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("dataset", SCENE_TEXTS)
def test_captions_and_pictures_agree_and_only_the_positives_are_right(benchmark, read_scene, split, dataset):
    pool = benchmark.pools[f"global_{split}"]
    images = {c.id: benchmark.scenes[c.image] for c in pool.values() if c.modality is Modality.IMAGE}
    texts = {c.id: read_scene(c.text) for c in pool.values() if c.id[0] in "019" and c.text and not c.image}
    for query in queries_of(benchmark, split, dataset, 0):
        scene = read_scene(query.text)
        assert [id_ for id_, other in images.items() if other == scene] == [*query.positives]
        assert scene in texts.values(), "the same facts are in the pool as a text"
        near = [_difference(scene, other) for other in images.values() if other != scene]
        assert any(name != "more" for name in near), "a picture differs in one attribute"
    for query in queries_of(benchmark, split, dataset, 3):
        scene = benchmark.scenes[query.image]
        right = {id_ for id_, other in texts.items() if other == scene}
        assert right == {*query.positives}
        assert len(right) == (2 if dataset == "scenecaptions" else 1)
        assert query.image in {pool[id_].image for id_ in images}, "the query is a candidate elsewhere"
        assert any(_difference(scene, other) != "more" for other in texts.values() if other != scene)


@pytest.mark.parametrize("split", SPLITS)
def test_articles_find_the_one_picture_of_their_scene(benchmark, read_scene, split):
    pool = benchmark.pools[f"global_{split}"]
    pictures = {c.id: benchmark.scenes[c.image] for c in pool.values() if c.id[0] in "23" and c.image}
    alone = {c.image for c in pool.values() if c.modality is Modality.IMAGE}
    for query in queries_of(benchmark, split, "scenearticles", 2):
        scene = read_scene(query.text)
        assert [id_ for id_, other in pictures.items() if other == scene] == [*query.positives]
        assert pool[query.positives[0]].image in alone, "the same facts are in the pool as image and as both"


@pytest.mark.parametrize("split", SPLITS)
def test_a_question_fits_one_passage_and_one_captioned_picture(benchmark, read_scene, read_group, split):
    pool = benchmark.pools[f"global_{split}"]
    passages = {c.id: read_scene(c.text) for c in pool.values() if c.id[0] == "2" and not c.image}
    passages |= {c.id: read_scene(c.text) for c in pool.values() if c.id[0] in "019" and c.text}
    pictures = {c.id: benchmark.scenes[c.image] for c in pool.values() if c.id[0] in "23" and c.image}
    for number, candidates in ((1, passages), (2, pictures)):
        for query in queries_of(benchmark, split, "sceneqa", number):
            fits = [
                id_ for id_, scene in candidates.items() if _fits(scene, query.text, read_scene, read_group)
            ]
            assert fits == [*query.positives], query.text


def _fits(scene, question, read_scene, read_group):
    """Whether a scene has all that a question tells: by its words, not by what drew it."""
    told = read_group(question)
    if told is None:  # asks for the background: both groups are told in full
        return {*read_scene(question).groups} <= {*scene.groups}
    named, known, background = told
    if background != scene.background or named not in scene.groups:
        return False
    others = [group for group in scene.groups if group != named]
    return any(all(getattr(group, name) == value for name, value in known.items()) for group in others)


@pytest.mark.parametrize("split", SPLITS)
def test_twins_show_the_same_scene_and_nothing_else_does(benchmark, split):
    pool = benchmark.pools[f"global_{split}"]
    images = {c.id: c.image for c in pool.values() if c.modality is Modality.IMAGE}
    for query in queries_of(benchmark, split, "twinscenes", 4):
        scene = benchmark.scenes[query.image]
        assert [id_ for id_, path in images.items() if benchmark.scenes[path] == scene] == [*query.positives]
        assert query.image not in images.values()
        files = [benchmark.root / path for path in (query.image, images[query.positives[0]])]
        assert files[0].read_bytes() != files[1].read_bytes()


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("dataset", ["shapeiq", "scenechange"])
def test_a_change_leads_to_the_one_picture_that_has_it(benchmark, split, dataset):
    pool = benchmark.pools[f"global_{split}"]
    for query in queries_of(benchmark, split, dataset, 7):
        before, (target,) = benchmark.scenes[query.image], query.positives
        after = benchmark.scenes[pool[target].image]
        changed = _difference(before, after)
        assert changed != "more"
        assert (len(before.groups) == 1) == (dataset == "shapeiq")
        if changed == "background":
            assert after.background in query.text
        (new,) = set(after.groups) - set(before.groups) or {None}
        if changed in ("colour", "shape"):
            assert getattr(new, changed) in query.text
        images = [c.image for c in pool.values() if c.modality is Modality.IMAGE]
        assert sum(benchmark.scenes[path] == after for path in images) == 1
        assert query.image in images, "the picture that one starts from is a candidate"


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(("number", "both"), [(6, False), (8, True)])
def test_entity_questions_list_all_passages_on_their_fact(benchmark, split, number, both):
    pool = benchmark.pools[f"global_{split}"]
    shared = 0
    for query in [q for q in benchmark.queries[split] if q.task_id == number]:
        passage = pool[query.positives[0]]
        assert (passage.image is not None) == both
        rivals = [c for c in pool.values() if c.id[0] in "56" and (c.image is not None) == both]
        assert {c.id for c in rivals if c.text == passage.text} == {*query.positives}
        names = {_PAIR.search(pool[id_].text)[0] for id_ in (*query.positives, *query.negatives)}
        assert len(names) == 1, "negatives are about the same entity"
        shared += len(query.positives) == 2
    assert shared


def test_no_scene_and_no_fact_is_in_two_splits(benchmark):
    scenes, passages = {}, {}
    for split in SPLITS:
        contents = [*benchmark.pools[f"global_{split}"].values(), *benchmark.queries[split]]
        scenes[split] = {benchmark.scenes[c.image] for c in contents if c.image in benchmark.scenes}
        pool = benchmark.pools[f"global_{split}"].values()
        passages[split] = {c.text for c in pool if c.id[0] in "56"}
    for one, two in (("train", "test"), ("train", "val"), ("val", "test")):
        assert not scenes[one] & scenes[two]
        assert not passages[one] & passages[two]
        assert not benchmark.pools[f"global_{one}"].keys() & benchmark.pools[f"global_{two}"].keys()


def test_held_out_pairs_are_in_test_only(benchmark):
    def pairs(split):
        contents = [*benchmark.pools[f"global_{split}"].values(), *benchmark.queries[split]]
        scenes = [benchmark.scenes[c.image] for c in contents if c.image in benchmark.scenes]
        drawn = {group.pair for scene in scenes for group in scene.groups}
        return drawn | {pair for c in contents for pair in _PAIR.findall((c.text or "").lower())}

    assert not HELD_OUT_PAIRS & pairs("train")
    assert not HELD_OUT_PAIRS & pairs("val")
    assert pairs("test") >= HELD_OUT_PAIRS


def _digests(root):
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def smallest(tmp_path_factory):
    """The smallest benchmark with the other one's seed."""
    root = tmp_path_factory.mktemp("synthetic") / "smallest"
    write_benchmark(root, seed=SEED, size=32, progress=False)
    return _digests(root)


def test_equal_arguments_give_equal_files(smallest, tmp_path):
    write_benchmark(tmp_path / "same", seed=SEED, size=32, progress=False)
    assert _digests(tmp_path / "same") == smallest
    assert len(smallest) > 100


def test_another_seed_gives_other_files(smallest, tmp_path):
    write_benchmark(tmp_path / "other", seed=SEED + 1, size=32, progress=False)
    other = _digests(tmp_path / "other")
    pools_and_pictures = {name for name in smallest if name.startswith(("cand_pool/global", "mbeir_images"))}
    assert len(pools_and_pictures) > 100
    assert not [name for name in pools_and_pictures if other.get(name) == smallest[name]]


def test_the_test_split_does_not_depend_on_the_number_of_training_queries(benchmark, smallest):
    large = _digests(benchmark.root)
    names = [name for name in smallest if name.endswith(".jsonl") and "test" in name]
    assert len(names) > 16
    assert all(smallest[name] == large[name] for name in names)
    assert any(smallest[name] != large.get(name) for name in smallest)


def test_the_command_line_writes_it(tmp_path, capsys):
    main(["data", "synthetic", str(tmp_path / "data"), "--size", "64", "--seed", "1", "--progress=false"])
    main(["data", "stats", str(tmp_path / "data")])
    assert "twinscenes_task4" in capsys.readouterr().out
    assert len(list(MBEIRReader(tmp_path / "data").queries("train"))) == 64


def test_a_size_below_two_queries_per_task_is_refused(tmp_path):
    with pytest.raises(DataError, match="at least 32"):
        write_benchmark(tmp_path / "data", size=31, progress=False)
    assert not (tmp_path / "data").exists()
