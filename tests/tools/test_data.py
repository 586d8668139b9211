from __future__ import annotations

import json
import subprocess
import sys

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


def test_pack_verify_and_stats(root, tmp_path, capsys):
    out = str(tmp_path / "out")
    main(["data", "pack", str(root), out, "--progress=false"])
    main(["data", "verify", out, "--json", str(tmp_path / "verify.json")])
    main(["data", "stats", out, "--json", str(tmp_path / "stats.json")])
    printed = capsys.readouterr().out
    assert "1 queries, 1 candidates, 0 images" in printed
    assert "no damage" in printed
    assert "tiny_task1" in printed
    assert json.loads((tmp_path / "verify.json").read_text())["ok"] is True
    stats = json.loads((tmp_path / "stats.json").read_text())
    assert stats["queries"] == {"test": {"tiny_task1": 1}}
    assert stats["candidates"]["global_test"] == {"text": 1}


def test_verify_exits_with_1_on_damage(root, tmp_path, capsys):
    main(["data", "pack", str(root), str(tmp_path / "out"), "--progress=false"])
    tar = tmp_path / "out/candidates/000000.tar"
    tar.write_bytes(tar.read_bytes().replace(b'"c"', b'"d"'))
    with pytest.raises(SystemExit) as exit_:
        main(["data", "verify", str(tmp_path / "out"), "--json", str(tmp_path / "verify.json")])
    assert exit_.value.code == 1
    assert "damage in 1 of" in capsys.readouterr().out
    assert json.loads((tmp_path / "verify.json").read_text())["damaged"] == 1


def test_bad_data_is_one_line_and_status_2(tmp_path):
    command = [sys.executable, "-m", "mmretrieval", "data", "stats", str(tmp_path / "nowhere")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"mmretrieval: {tmp_path / 'nowhere'}: no such folder")
    assert done.stderr.count("\n") == 1
