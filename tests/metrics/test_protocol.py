"""Which ranks count for a task."""

import pytest

from mmretrieval.metrics.protocol import CutOffs, Protocol


@pytest.mark.parametrize(
    ("task", "headline"),
    [
        ("mscoco_task0", 5),
        ("fashion200k_task0", 10),
        ("Fashion200K_task3", 10),
        ("fashioniq_task7", 10),
        ("fashioniq_dress_task7", 10),  # a part of it
        ("fashioniqs_task7", 5),
    ],
)
def test_mbeirs_rule_holds_for_its_data_sets_and_their_parts(task, headline):
    assert Protocol().of(task).headline == headline


def test_the_rule_of_a_part_goes_before_that_of_the_whole():
    rules = {"a": CutOffs((1,), 1), "a_b": CutOffs((2,), 2)}
    protocol = Protocol(data_sets=rules)
    assert [protocol.of(task).headline for task in ("a_task1", "a_b_task1", "a_c_task1", "b_task1")] == [
        1,
        2,
        1,
        5,
    ]


def test_the_depth_holds_every_rank():
    assert Protocol(data_sets={"a": CutOffs((70,), 70)}).depth == 70
    assert Protocol().depth == 50


def test_a_headline_must_be_measured():
    with pytest.raises(ValueError, match="headline"):
        CutOffs((1, 5), 10)
