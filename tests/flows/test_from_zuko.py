"""Flows taken over from the real Zuko, in a process of their own: importing it switches torch's validation off."""

import importlib.util
import subprocess
import sys

import pytest

SCRIPT = """
import torch, zuko
from pyrogen import flows

torch.distributions.Distribution.set_default_validate_args(True)
torch.manual_seed(0)
x, context = 1.5 * torch.randn(40, 4), torch.randn(40, 3)
for make in (zuko.flows.NSF, zuko.flows.MAF, zuko.flows.NICE, zuko.flows.RealNVP):
    for size in (0, 3):
        peer = make(4, size, transforms=2, hidden_features=[16, 16])
        with torch.no_grad():
            for parameter in peer.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        own = flows.from_zuko(peer, event_shape=(4,), context_shape=(3,) if size else None)
        given = context if size else None
        expected = peer(given).log_prob(x)
        assert torch.allclose(own(given).log_prob(x), expected, atol=1e-5), make
        shared = {id(parameter) for parameter in own.parameters()}
        assert shared == {id(parameter) for parameter in peer.parameters()}
        own(given).log_prob(x).sum().backward()
        assert all(parameter.grad is not None for parameter in own.parameters())
        with torch.no_grad():
            for parameter in peer.parameters():
                parameter.mul_(1.1)
        assert torch.allclose(own(given).log_prob(x), peer(given).log_prob(x), atol=1e-5)  # weights are shared
        assert not torch.allclose(own(given).log_prob(x), expected, atol=1e-3)
        draws = own(given).sample((5,))
        assert torch.allclose(own(given).log_prob(draws), peer(given).log_prob(draws), atol=1e-4)

wrong = {
    "must have a `transform`": lambda: zuko.flows.GMM(4),
    "standard normal base": lambda: zuko.flows.NCSF(4, transforms=1, hidden_features=[8]),
    "exact log-determinant": lambda: zuko.flows.CNF(4, hidden_features=[8], exact=False),
    "events of shape": lambda: zuko.flows.MAF(5, transforms=1, hidden_features=[8]),
}
for message, make in wrong.items():
    try:
        flows.from_zuko(make(), event_shape=(4,))
    except ValueError as error:
        assert message in str(error), error
    else:
        raise AssertionError(message)
print("all equal")
"""


@pytest.mark.skipif(importlib.util.find_spec("zuko") is None, reason="needs zuko")
def test_flows_of_the_real_zuko():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "all equal" in done.stdout
