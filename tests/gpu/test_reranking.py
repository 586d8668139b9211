"""A GPU reranks as the CPU does."""

from pathlib import Path

import pytest
import torch

from mmretrieval.encoder.backbone import Loading
from mmretrieval.encoder.families import FAMILIES
from mmretrieval.encoder.pictures import PictureOptions
from mmretrieval.rerank import ZeroShotReranker

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("default"),  # of drivers and of torch's builds
]


def reranker(folder, family, prompts: Path, **options):
    prompts.write_text("default: |\n  Ask: {query}\n  Found: {candidate}\n  Is it right?")
    pictures = PictureOptions(tiles=FAMILIES[family].tiles)
    made = ZeroShotReranker(str(folder), pictures=pictures, prompts=prompts, answers=("T", "F"), **options)
    made.load()
    return made


@pytest.mark.parametrize("share", [True, False])
def test_scores_are_those_of_the_cpu(folder, family, asked, contents, tmp_path, share, device):
    made = reranker(folder, family, tmp_path / "prompts.yaml", share_prefix=share, rows=4)
    pool = [content for kind in contents.values() for content in kind]
    expected = torch.stack([made.score(query, pool) for query in asked])
    made.release()
    made.to(device)
    found = torch.stack([made.score(query, pool) for query in asked])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert float(expected.std()) > 1e-3
    made.release()
    assert {parameter.device.type for parameter in made.parameters()} == {"cpu"}


def test_half_precision_is_near(folder, family, asked, contents, tmp_path, device):
    pool = [content for kind in contents.values() for content in kind]
    scores = [
        reranker(folder, family, tmp_path / "prompts.yaml", loading=Loading(dtype=dtype)).to(device)
        for dtype in ("float32", "bfloat16")
    ]
    whole, half = ([made.score(query, pool) for query in asked] for made in scores)
    torch.testing.assert_close(torch.stack(half), torch.stack(whole), atol=0.03, rtol=0)
