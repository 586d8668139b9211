"""A step that is not finite changes nothing, is counted, and ends a run that has no other steps."""

import pytest
import torch

from mmretrieval.health import StepHealth


def weights():
    parameter = torch.nn.Parameter(torch.ones(3))
    return parameter, torch.optim.AdamW([parameter], lr=0.1, weight_decay=0.5)


def step(health, parameter, optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    health.saw(loss)
    counts = health.check([parameter], torch.nn.utils.get_total_norm([parameter.grad]))
    optimizer.step()
    return counts


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_bad_step_leaves_weights_and_optimizer_alone(bad):
    parameter, optimizer = weights()
    health = StepHealth()
    assert step(health, parameter, optimizer, parameter.sum())
    before, moment = parameter.detach().clone(), optimizer.state[parameter]["exp_avg"].clone()
    for _ in range(2):
        assert not step(health, parameter, optimizer, (parameter * bad).sum())
    assert torch.equal(parameter, before)
    assert torch.equal(optimizer.state[parameter]["exp_avg"], moment)
    assert (health.skipped, health.in_row) == (2, 2)
    assert step(health, parameter, optimizer, parameter.sum())
    assert (health.skipped, health.in_row) == (2, 0)
    assert not torch.equal(parameter, before)


def test_counts_go_on_after_a_resume():
    parameter, optimizer = weights()
    health, resumed = StepHealth(), StepHealth()
    step(health, parameter, optimizer, parameter.sum() * torch.nan)
    resumed.load_state_dict(health.state_dict())
    assert (resumed.skipped, resumed.in_row) == (1, 1)
