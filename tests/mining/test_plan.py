"""Each data set is mined as if it were alone, and whatever is set is in the stamp."""

import dataclasses
import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from jsonargparse import ArgumentParser

from mmretrieval.mining import (
    DataSets,
    ExpectedStamp,
    Filter,
    FilteredMiningReport,
    MarginToPositive,
    MaxScore,
    MinedNegatives,
    MiningPlan,
    MiningSettings,
    ModalityAware,
    NegativeTable,
    Override,
    PercentOfPositive,
    RankRange,
    RightModalityBelow,
    SameModality,
    StaleNegativesError,
    Stamp,
    TopK,
    mine,
)

DEFAULT = MiningPlan(top_k=10, negatives_per_query=2, selection=ModalityAware(4), filters=[MaxScore(0.5)])
OVERRIDES = {
    "msmarco": Override(selection=TopK(k=4, sample=True), filters=[MarginToPositive(0.125), SameModality()]),
    "nights": Override(filters=[]),
    "cirr": Override(selection=TopK()),
}
ALONE = {
    "coco": DEFAULT,
    "msmarco": dataclasses.replace(
        DEFAULT, selection=TopK(k=4, sample=True), filters=[MarginToPositive(0.125), SameModality()]
    ),
    "nights": dataclasses.replace(DEFAULT, filters=()),
    "cirr": dataclasses.replace(DEFAULT, selection=TopK()),
    "fiqa": DEFAULT,
}


@pytest.mark.parametrize("seed", range(4))
def test_each_data_set_is_mined_as_if_it_were_alone(seed, scored_rankings):
    rankings, modalities, keys = scored_rankings(seed, queries=80)
    data_sets = DataSets(list(ALONE), np.random.default_rng(seed).integers(0, len(ALONE), 80))
    together, report = mine(
        rankings, modalities, keys, dataclasses.replace(DEFAULT, data_sets=OVERRIDES), data_sets
    )
    total = FilteredMiningReport()
    for code, plan in enumerate(ALONE.values()):
        queries = np.flatnonzero(data_sets.codes == code)
        alone, partial = mine(rankings.take(queries), modalities, keys, plan)
        assert (alone.rows >= 0).any()
        for field in dataclasses.fields(MinedNegatives):
            np.testing.assert_array_equal(getattr(together, field.name)[queries], getattr(alone, field.name))
        total += partial
    assert report == total
    assert set(report.dropped) == {"max_score", "margin_to_positive", "same_modality"}


def test_a_data_set_without_queries_changes_nothing(scored_rankings):
    rankings, modalities, keys = scored_rankings(3)
    data_sets = DataSets(["coco", *OVERRIDES], np.zeros(7, dtype=np.int32))
    plan = dataclasses.replace(DEFAULT, data_sets=OVERRIDES)
    found, plain = (
        mine(rankings, modalities, keys, plan, data_sets),
        mine(rankings, modalities, keys, DEFAULT),
    )
    np.testing.assert_array_equal(found[0].rows, plain[0].rows)
    assert found[1] == plain[1]


def test_patterns_name_several_data_sets(scored_rankings):
    first, second, own = (Override(TopK(k)) for k in (1, 2, 3))
    plan = MiningPlan(data_sets={"*_task1": first, "n?_*": second, "nq_task1": own})
    assert plan.recipe("nq_task1").selection == TopK(3), "a full name counts before patterns"
    assert plan.recipe("nq_task2").selection == TopK(2)
    assert plan.recipe("fiqa_task1").selection == TopK(1)
    assert plan.recipe("nq").selection == plan.selection
    names = ("nq_task1", "fiqa_task1", "cirr_task7", "na_task1")
    groups = plan.groups(DataSets(names, np.array([0, 1, 2, 3, 1])), 5)
    chosen = {row: recipe.selection for recipe, rows in groups for row in rows.tolist()}
    assert chosen == {0: TopK(3), 1: TopK(1), 2: plan.selection, 3: TopK(1), 4: TopK(1)}
    with pytest.raises(ValueError, match=r"settings for \*_task9;"):
        [*MiningPlan(data_sets={"*_task9": first}).groups(DataSets(names, np.zeros(2, np.int64)), 2)]


def test_a_pattern_may_mean_a_source_alone():
    names, sources = ("webqa_task1", "nq_task1", "fiqa_task1"), ("multimodal", "text", "text")
    own, texts, rest = Override(TopK(1)), Override(TopK(2)), Override(TopK(3))
    plan = MiningPlan(data_sets={"text:*": texts, "fiqa_task1": own, "*_task1": rest})
    data_sets = DataSets(names, np.arange(3), sources)
    chosen = {row: recipe.selection for recipe, rows in plan.groups(data_sets, 3) for row in rows.tolist()}
    assert chosen == {0: TopK(3), 1: TopK(2), 2: TopK(1)}
    alone = MiningPlan(data_sets={"text:*": texts})
    with pytest.raises(
        ValueError, match=r"settings for text:\*; data sets of the queries: fiqa_task1, nq_task1"
    ):
        [*alone.groups(DataSets(names[1:], np.zeros(2, np.int64)), 2)]
    with pytest.raises(ValueError, match="need a source each"):
        DataSets(names, np.arange(3), sources[:2])


def test_overrides_need_the_data_sets_they_name(scored_rankings):
    case, plan = scored_rankings(3), dataclasses.replace(DEFAULT, data_sets=OVERRIDES)
    with pytest.raises(ValueError, match=r"settings for cirr, msmarco, nights; .* not given"):
        mine(*case, plan)
    with pytest.raises(
        ValueError, match=r"settings for cirr, nights; data sets of the queries: coco, msmarco"
    ):
        mine(*case, plan, DataSets(["msmarco", "coco"], np.zeros(7, dtype=np.int32)))
    with pytest.raises(ValueError, match="7 queries need a data set each"):
        mine(*case, plan, DataSets(list(ALONE), np.zeros(6, dtype=np.int32)))
    with pytest.raises(ValueError, match="positions of the 2 data sets, found values from 0 to 2"):
        DataSets(["a", "b"], np.array([0, 2]))
    with pytest.raises(ValueError, match="must differ, found a, a"):
        DataSets(["a", "a"], np.array([0, 1]))


FULL = MiningPlan(
    top_k=40,
    negatives_per_query=2,
    seed=3,
    selection=ModalityAware(30, 0.25, 0.125),
    filters=[PercentOfPositive(0.9), RankRange(2, 30)],
    data_sets={"cirr": Override(TopK(10, True), [MaxScore(0.7)]), "fiqa": Override(filters=[])},
)


def varied(**changes):
    return dataclasses.replace(FULL, **changes)


DIFFERENT = {
    "as it is": FULL,
    "top_k": varied(top_k=41),
    "negatives": varied(negatives_per_query=3),
    "seed": varied(seed=4),
    "k_prime": varied(selection=ModalityAware(29, 0.25, 0.125)),
    "c1": varied(selection=ModalityAware(30, 0.5, 0.125)),
    "none": varied(selection=ModalityAware(30, 0.25, 0.25)),
    "selection": varied(selection=TopK()),
    "sampled": varied(selection=TopK(sample=True)),
    "of ten": varied(selection=TopK(k=10)),
    "no filter": varied(filters=()),
    "percent": varied(filters=[PercentOfPositive(0.95), RankRange(2, 30)]),
    "first": varied(filters=[PercentOfPositive(0.9), RankRange(1, 30)]),
    "last": varied(filters=[PercentOfPositive(0.9), RankRange(2)]),
    "order": varied(filters=[RankRange(2, 30), PercentOfPositive(0.9)]),  # counts depend on it
    "another filter": varied(filters=[MarginToPositive(0.9), RankRange(2, 30)]),
    "one more": varied(filters=[*FULL.filters, SameModality()]),
    "no data set": varied(data_sets={}),
    "another data set": varied(data_sets={"cirr": FULL.data_sets["cirr"], "nq": FULL.data_sets["fiqa"]}),
    "a data set's filter": varied(data_sets={**FULL.data_sets, "fiqa": Override(filters=[MaxScore(0.7)])}),
    "a data set's limit": varied(
        data_sets={**FULL.data_sets, "cirr": Override(TopK(10, True), [MaxScore(0.6)])}
    ),
    "a data set's selection": varied(
        data_sets={**FULL.data_sets, "cirr": Override(TopK(9, True), [MaxScore(0.7)])}
    ),
}


def test_plans_that_differ_in_anything_have_stamps_that_differ():
    stamps = {name: json.dumps(plan.stamp(), sort_keys=True) for name, plan in DIFFERENT.items()}
    assert len(set(stamps.values())) == len(stamps) == 22


def test_equal_plans_have_equal_stamps_whatever_they_are_written_as():
    same = MiningPlan(
        top_k=40,
        negatives_per_query=2,
        seed=3,
        selection=ModalityAware(k_prime=30, probability_c1=0.25, probability_none=0.125),
        filters=(PercentOfPositive(percent=0.9), RankRange(first=2, last=30)),
        data_sets=dict(reversed(FULL.data_sets.items())),
    )
    assert same.stamp() == FULL.stamp()
    assert MiningPlan(filters=[MaxScore(1)]).stamp() == MiningPlan(filters=[MaxScore(1.0)]).stamp()
    spelled_out = {"cirr": Override(ModalityAware(30), [MaxScore(0.7)])}
    inherited = {"cirr": Override(filters=[MaxScore(0.7)])}
    one, other = (
        MiningPlan(selection=ModalityAware(30), data_sets=sets) for sets in (spelled_out, inherited)
    )
    assert one.stamp() == other.stamp()


@pytest.mark.parametrize("patterns", [("*_task1", "vis*"), ("text:*", "*:fiqa")])
def test_patterns_in_another_order_mine_otherwise_and_have_another_stamp(patterns):
    settings = dict(zip(patterns, (Override(TopK(1)), Override(TopK(2))), strict=True))
    plans = [MiningPlan(data_sets=dict(order)) for order in (settings.items(), reversed(settings.items()))]
    data_set = {"*_task1": ("visualnews_task1", ""), "text:*": ("fiqa", "text")}[patterns[0]]
    assert plans[0].recipe(*data_set) != plans[1].recipe(*data_set)
    assert plans[0].stamp() != plans[1].stamp()
    own = {"visualnews_task1": Override(TopK(3))}  # a full name counts wherever it stands
    assert (
        MiningPlan(data_sets={**own, **plans[0].data_sets}).stamp()
        == MiningPlan(data_sets={**plans[0].data_sets, **own}).stamp()
    )


def test_a_file_of_another_filter_is_refused(tmp_path):
    def stamp_of(plan):
        return Stamp("weights", 1, "pool", "queries", 0, plan.stamp())

    none = np.zeros(0, dtype=np.int64)
    NegativeTable(stamp_of(FULL), [], none, [], none, none, none.astype(float)).save(tmp_path / "n.npz")
    NegativeTable.load(tmp_path / "n.npz", ExpectedStamp("pool", "queries", settings=FULL.stamp()))
    for name, plan in list(DIFFERENT.items())[1:]:
        with pytest.raises(StaleNegativesError, match="settings: found"):
            NegativeTable.load(tmp_path / "n.npz", ExpectedStamp("pool", "queries", settings=plan.stamp()))
        assert name


class Unstampable(Filter):
    name: ClassVar[str] = "unstampable"

    def keeps(self, hits):
        return hits.there


@dataclass(frozen=True)
class BestOnly(Filter):
    """A filter of somebody else."""

    name: ClassVar[str] = "best_only"

    def keeps(self, hits):
        return hits.ranks == 1


def test_filters_of_others_work_if_files_can_be_stamped_with_them(scored_rankings):
    plan = MiningPlan(10, selection=TopK(), filters=[BestOnly()])
    mined, report = mine(*scored_rankings(2), plan)
    assert set(mined.ranks.ravel().tolist()) - {0} == {1}
    assert report.dropped["best_only"] > 0
    assert "BestOnly" in plan.stamp()["filters"]
    with pytest.raises(TypeError, match="Unstampable must be a dataclass"):
        MiningPlan(filters=[Unstampable()])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MiningPlan(top_k=0), "top_k and negatives_per_query must be at least 1, found 0 and 1"),
        (lambda: MiningPlan(top_k=40), r"ModalityAware\(k_prime=45.* needs the best 45 candidates, top_k=40"),
        (lambda: MiningPlan(filters=[RankRange(51)]), "needs the best 51 candidates, top_k=50"),
        (lambda: MiningPlan(filters=[RightModalityBelow(60)]), "needs the best 60 candidates"),
        (lambda: MiningPlan(data_sets={"a": Override(ModalityAware(60))}), "needs the best 60 candidates"),
        (lambda: ModalityAware(probability_none=1.5), "probability_none must be from 0 to 1, found 1.5"),
        (lambda: ModalityAware(k_prime=-1), "k_prime must be at least 0"),
        (lambda: TopK(0), "k must be at least 1, found 0"),
        (lambda: MiningSettings(top_k=40), "k_prime must be from 0 to top_k=40, found 45"),
    ],
)
def test_impossible_plans_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


YAML = """
plan:
  top_k: 40
  negatives_per_query: 2
  seed: 3
  selection:
    class_path: mmretrieval.mining.ModalityAware
    init_args: {k_prime: 30, probability_c1: 0.25, probability_none: 0.125}
  filters:
    - class_path: mmretrieval.mining.PercentOfPositive
      init_args: {percent: 0.9}
    - class_path: mmretrieval.mining.filters.RankRange
      init_args: {first: 2, last: 30}
  data_sets:
    cirr:
      selection:
        class_path: mmretrieval.mining.TopK
        init_args: {k: 10, sample: true}
      filters:
        - class_path: mmretrieval.mining.score_filters.MaxScore
          init_args: {value: 0.7}
    fiqa:
      filters: []
"""


class Holder:
    """What takes a plan as a callback does."""

    def __init__(self, plan: MiningPlan | None = None):
        self.plan = plan


@pytest.mark.parametrize("nested", [True, False])
def test_a_plan_can_be_written_in_yaml(tmp_path, nested):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    if nested:
        parser.add_class_arguments(Holder, "holder")
        text = "holder:" + YAML.replace("\n", "\n  ")
    else:
        parser.add_argument("--plan", type=MiningPlan, default=MiningPlan())
        text = YAML
    (tmp_path / "plan.yaml").write_text(text.rstrip() + "\n")
    read = parser.instantiate(parser.parse_args(["--config", str(tmp_path / "plan.yaml")]))
    assert (read.holder if nested else read).plan.stamp() == FULL.stamp()


def test_single_settings_can_be_given_on_the_command_line():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--plan", type=MiningPlan, default=MiningPlan())
    assert parser.instantiate(parser.parse_args([])).plan.stamp() == MiningPlan().stamp()
    read = parser.instantiate(parser.parse_args(["--plan.seed=7", "--plan.selection=TopK"])).plan
    assert read.stamp() == MiningPlan(seed=7, selection=TopK()).stamp()
