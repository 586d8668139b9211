from __future__ import annotations

import json

import pytest

from mmretrieval.tools.main import main


def lines(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows))


@pytest.fixture
def beir(tmp_path):
    root = tmp_path / "Sets"
    lines(root / "corpus.jsonl", '{"_id": "a", "text": "A"}', '{"_id": "b", "text": "B"}')
    lines(root / "queries.jsonl", '{"_id": "q", "text": "Q"}')
    lines(root / "qrels/test.tsv", "query-id\tcorpus-id\tscore", "q\ta\t1")
    lines(root / "qrels/dev.tsv", "query-id\tcorpus-id\tscore", "q\tb\t1")
    return root


def test_text_sets_are_converted_and_merged(beir, tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    lines(prompts, "Answer it.", "", "Find it.")
    for number, name in enumerate(("one", "two", "three"), 30):
        options = [f"--name={name}", f"--dataset_id={number}", f"--prompt_file={prompts}", "--progress=false"]
        main(["data", "convert", "beir", str(beir), str(tmp_path / name), "--split=test", *options])
    roots = [str(tmp_path / name) for name in ("one", "two")]
    main(
        ["data", "merge", *roots, str(tmp_path / "all"), f"--more+={tmp_path / 'three'}", "--progress=false"]
    )
    printed = capsys.readouterr().out
    assert "test queries of one_task1" in printed
    assert "one (30), two (31), three (32); queries {'test': 3}" in printed
    assert (tmp_path / "all/instructions/query_instructions.tsv").read_text().count(
        "Answer it.\tFind it."
    ) == 3
    main(["data", "pack", str(tmp_path / "all"), str(tmp_path / "packed"), "--progress=false"])
    assert "3 queries, 6 candidates, 0 images" in capsys.readouterr().out


def test_run_files_get_the_ids_of_the_release(beir, tmp_path, capsys):
    main(["data", "convert", "beir", str(beir), str(tmp_path / "out"), "--split=test", "--progress=false"])
    runs, wanted = tmp_path / "run/runs_test", tmp_path / "released"
    lines(runs / "local_sets_task1.trec", "100:1 Q0 100:2 1 0.5 step9", "100:1 Q0 100:1 2 0.25 step9")
    lines(runs / "local_sets_task1.qrels", "100:1 0 100:1 1")
    main(["data", "original-ids", str(tmp_path / "run"), str(tmp_path / "out"), str(wanted)])
    assert "2 files with the ids of the release" in capsys.readouterr().out
    assert (wanted / "local_sets_task1.trec").read_text() == "q Q0 b 1 0.5 step9\nq Q0 a 2 0.25 step9\n"
    assert (wanted / "local_sets_task1.qrels").read_text() == "q 0 a 1\n"
    lines(runs / "local_sets_task1.trec", "100:1 Q0 7:7 1 0.5 step9")
    with pytest.raises(SystemExit):
        main(["data", "original-ids", str(runs), str(tmp_path / "out"), str(tmp_path / "more")])
    assert "local_sets_task1.trec:1" in (message := capsys.readouterr().err)
    assert "has no candidate '7:7'" in message
    assert not (tmp_path / "more").exists(), "all or nothing"
    with pytest.raises(SystemExit):
        main(["data", "original-ids", str(runs), str(beir), str(tmp_path / "more")])
    assert "original_ids.jsonl" in capsys.readouterr().err


def test_names_and_splits_have_defaults(beir, tmp_path, capsys):
    main(["data", "convert", "beir", str(beir), str(tmp_path / "out"), "--progress=false"])
    assert "candidates in local_sets_task1" in capsys.readouterr().out
    assert json.loads((tmp_path / "out/query/val/mbeir_sets_task1_val.jsonl").read_text())["qid"] == "100:1"


@pytest.mark.parametrize("benchmark", ["circo", "cirr", "fashioniq"])
def test_a_missing_release_is_one_line_and_status_2(benchmark, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["data", "convert", benchmark, str(tmp_path), str(tmp_path / "out"), "--progress=false"])
    assert exit_.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith(f"mmretrieval: {tmp_path}")
    assert "file is missing; add it from the benchmark's release" in message
