"""The command shows what was found, writes it, and says it by its status."""

from __future__ import annotations

import json

import pytest

from data_modules.formats.mbeir_writer import MBEIRWriter
from data_modules.formats.records import CandidateRecord, InstructionRecord, QueryRecord
from mmretrieval.content import Modality
from mmretrieval.tools.main import main

TEXT = Modality.TEXT


@pytest.fixture
def root(tmp_path):
    with MBEIRWriter(tmp_path / "data") as writer:
        writer.write_instructions([InstructionRecord("tiny", 0, TEXT, TEXT, ("Find it.",))])
        writer.write_queries("test", [QueryRecord("0:1", "q", None, TEXT, ("0:1",), (), "tiny", 1, ())])
        writer.write_pool("global_test", [CandidateRecord("0:1", "c", None, TEXT)])
    return tmp_path / "data"


def test_a_clean_folder_ends_with_status_0_and_its_cost(root, tmp_path, capsys):
    report = tmp_path / "report.json"
    options = ["--contents_per_second", "2", "--dimension", "8", "--json", str(report), "--progress=false"]
    main(["data", "doctor", str(root), *options])
    printed = capsys.readouterr().out
    assert "no problem (0 errors, 0 warnings, 0 notes)" in printed
    assert "1 distinct candidates; queries: 1 test" in printed
    assert "at the given 2 contents a second" in printed
    document = json.loads(report.read_text())
    assert document["clean"] is True
    assert document["estimate"]["embedding_bytes"] == 32
    assert document["estimate"]["embedding_hours"] == pytest.approx(1 / 3600)


def test_problems_end_with_status_1_and_their_places(root, tmp_path, capsys):
    pool = root / "cand_pool/global/mbeir_union_test_cand_pool.jsonl"
    pool.write_text(pool.read_text() + "{[red]\n")
    with pytest.raises(SystemExit) as exit_:
        main(["data", "doctor", str(root), "--json", str(tmp_path / "r.json"), "--progress=false"])
    assert exit_.value.code == 1
    printed = capsys.readouterr().out
    assert "malformed-line" in printed
    assert "mbeir_union_test_cand_pool.jsonl:2" in printed
    finding = json.loads((tmp_path / "r.json").read_text())["findings"][0]
    assert (finding["check"], finding["severity"], finding["count"]) == ("malformed-line", "error", 1)


def test_bad_arguments_end_with_status_2(root, tmp_path, capsys):
    for words in ([str(tmp_path / "nothing")], [str(root), "--dimension", "0"]):
        with pytest.raises(SystemExit) as exit_:
            main(["data", "doctor", *words])
        assert exit_.value.code == 2
    assert "dimension is 0" in capsys.readouterr().err
