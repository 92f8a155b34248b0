"""Networks of noisy sequences and videos: aligned contexts, absent members, and what moves with the data."""

import pytest
import torch

from pyrogen.diffusion import transformer, unet
from pyrogen.networks.attention import Attention
from pyrogen.networks.diffusion_transformer import DiffusionTransformer
from pyrogen.networks.places import channels_back, channels_first
from pyrogen.networks.residual_mlp import ResidualMLP
from pyrogen.networks.unet import UNet

SEQUENCE, VIDEO = (7, 2), (3, 2, 5, 4)
NETWORKS = {
    "unet": lambda *shapes, **more: UNet(*shapes, channels=(4, 8), depth=1, heads=2, width=16, **more),
    "transformer": lambda *shapes, **more: DiffusionTransformer(*shapes, width=16, depth=2, heads=2, **more),
}
BESIDE = {
    "vectors beside a sequence": (SEQUENCE, (7, 3), None, torch.linspace(-1, 1, 63).reshape(3, 7, 3)),
    "symbols beside a sequence": (SEQUENCE, (7,), 5, torch.arange(21).reshape(3, 7) % 5),
    "vectors beside frames": (VIDEO, (3, 2), None, torch.linspace(-1, 1, 18).reshape(3, 3, 2)),
    "an image beside frames": (VIDEO, (1, 5, 4), None, torch.linspace(-1, 1, 60).reshape(3, 1, 5, 4)),
    "vectors to attend to": (VIDEO, (4, 2), None, torch.linspace(-1, 1, 24).reshape(3, 4, 2)),
}


def awake(network):
    """In float64, with outputs that are not zero any more."""
    for parameter in network.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return network.double().eval()


@pytest.mark.parametrize("event_shape", [(6,), (4, 3), (1, 3, 3), (2, 3, 4, 5)])
def test_channels_come_back_where_they_were(event_shape):
    x = torch.randn(2, *event_shape)
    moved = channels_first(x, len(event_shape))
    assert moved.shape[1] == (1 if len(event_shape) == 1 else event_shape[{2: 1, 3: 0, 4: 1}[len(event_shape)]])
    assert torch.equal(channels_back(moved, len(event_shape)), x)
    assert torch.equal(channels_back(moved.unsqueeze(0), len(event_shape))[0], x)


@pytest.mark.parametrize("kind", BESIDE)
@pytest.mark.parametrize("name", NETWORKS)
def test_rows_answer_as_alone_and_every_context_matters(name, kind):
    torch.manual_seed(0)
    event, shape, classes, context = BESIDE[kind]
    network = NETWORKS[name](event, shape, classes=classes, outputs=3)
    x, level = torch.randn(2, 3, *event).double(), torch.randn(3).double()
    assert not network(x.float(), level.float(), context).any()
    awake(network)
    together = network(x, level, context)
    assert together.shape == (2, 3, 3, *event)
    assert torch.allclose(together[1, 2], network(x[1, 2], level[2], context[2]), atol=1e-10)
    assert network(x[:, :0], level[:0], context[:0]).shape == (2, 0, 3, *event)
    assert (network(x, level, context.flip(0)) - together).abs().flatten(2).amax(-1)[:, [0, 2]].min() > 1e-6
    assert (network(x, level + 0.1, context) - together).abs().max() > 1e-6


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own, at the first forward derivative
@pytest.mark.parametrize("kind", ["symbols beside a sequence", "vectors to attend to"])
@pytest.mark.parametrize("name", NETWORKS)
def test_forward_derivatives_of_motion_agree_with_backward(name, kind):
    torch.manual_seed(0)
    event, shape, classes, context = BESIDE[kind]
    network, level = awake(NETWORKS[name](event, shape, classes=classes)), torch.zeros(3).double()
    x, tangent, weights = torch.randn(3, 3, *event).double().unbind(1)
    _, forward = torch.func.jvp(lambda value: network(value, level, context), (x,), (tangent,))
    (backward,) = torch.autograd.grad((weights * network(x.requires_grad_(), level, context)).sum(), x)
    assert torch.allclose((weights * forward).sum(), (backward * tangent).sum())


@pytest.mark.parametrize("event", [(40, 2), (2, 9, 40), (3, 2, 5, 40)])
def test_what_moves_within_a_signal_moves_its_output(event):
    """Far from the ends, where convolutions at one resolution know of no place."""
    torch.manual_seed(0)
    network = awake(UNet(event, channels=(8,), depth=1, attention=0))
    side = 0 if len(event) == 2 else -1
    x = torch.zeros(1, *event).double()
    x.narrow(side + 1 if side == 0 else side, 15, 3).normal_()
    along = 1 if side == 0 else -1
    here, there = network(x, torch.zeros(1)), network(x.roll(4, along), torch.zeros(1))
    inner = here.roll(4, along).narrow(along, 14, 10)
    assert torch.allclose(there.narrow(along, 14, 10), inner, atol=1e-10)
    assert (there - here).abs().max() > 1e-3


def test_absent_keys_are_as_if_they_were_not_there():
    torch.manual_seed(0)
    attention = Attention(8, 2, context=4)
    awake(attention)
    x, members = torch.randn(3, 5, 8).double(), torch.randn(3, 6, 4).double()
    present = torch.arange(6) < torch.tensor([[4], [6], [0]])
    together = attention(x, members, present)
    assert torch.allclose(together[0], attention(x[:1], members[:1, :4])[0])
    assert torch.allclose(together[1], attention(x[1:2], members[1:2])[0])
    assert torch.equal(together[2], attention.out.bias.expand(5, 8))
    x.requires_grad_()
    attention(x, members, present).sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("symbols", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_padding_of_a_context_changes_nothing(name, symbols):
    """A sequence of two members padded to four is read as any other padding of the same two."""
    torch.manual_seed(0)
    shape, classes = ((4,), 5) if symbols else ((4, 3), None)
    network = awake(NETWORKS[name]((5, 2), shape, classes=classes))
    context = torch.tensor([[1, 3, 2, 0]]) if symbols else torch.randn(1, 4, 3).double()
    x, level = torch.randn(1, 5, 2).double().requires_grad_(), torch.zeros(1)
    whole = network(x, level, context)
    short = context.clone()
    short[:, 2:] = -1 if symbols else torch.nan
    found = network(x, level, short)
    assert found.isfinite().all()
    assert (found - whole).abs().max() > 1e-6
    encoded = network.context(short, 1)
    assert encoded.present.tolist() == [[True, True, False, False]]
    longer = awake(NETWORKS[name]((5, 2), shape, classes=classes))
    longer.load_state_dict(network.state_dict())
    longer.context.parts["entry_"].places.data[2:].normal_()  # the places of absent members mean nothing
    assert torch.allclose(longer(x, level, short), found)
    found.sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("symbols", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_padding_of_an_event_changes_nothing(name, symbols):
    torch.manual_seed(0)
    shape, classes = ((7,), 5) if symbols else ((7, 3), None)
    network = awake(NETWORKS[name](SEQUENCE, shape, classes=classes))
    context = torch.arange(14).reshape(2, 7) % 5 if symbols else torch.randn(2, 7, 3).double()
    context[0, 4:] = -1 if symbols else torch.nan
    x, level = torch.randn(2, *SEQUENCE).double(), torch.zeros(2)
    other = x.clone()
    other[:, 4:] += torch.randn(2, 3, 2).double()
    here, there = network(x, level, context), network(other, level, context)
    assert here.isfinite().all()
    assert torch.allclose(here[0, :4], there[0, :4], atol=1e-12)
    assert (here[1, :4] - there[1, :4]).abs().max() > 1e-6


def test_statistics_are_of_the_members_that_are_there():
    network = DiffusionTransformer((3, 2), (4, 2), width=8, heads=2, depth=1)
    context = torch.tensor([[1.0, 10.0], [3.0, 30.0], [torch.nan, torch.nan], [torch.nan, torch.nan]]).expand(5, 4, 2)
    ((_, rows),) = network.read_data(context)
    assert rows.mean(0).tolist() == [2.0, 20.0]
    broken = context.clone()
    broken[1, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN in all of a member"):
        list(network.read_data(broken))
    with pytest.raises(ValueError, match="must be finite"):
        list(ResidualMLP((3, 2), (4, 2)).read_data(context))


@pytest.mark.parametrize(
    "make",
    [
        lambda: unet((6, 2), (6, 3), channels=(4,), depth=1, heads=2, width=8),
        lambda: transformer((6, 2), (4, 3), width=8, depth=1, heads=2),
    ],
)
def test_a_model_with_absent_members_trains_and_scores(make):
    torch.manual_seed(0)
    model = make()
    length = model.context_shape[0]
    context = torch.randn(8, length, 3)
    context[::2, 3:] = torch.nan
    x = torch.randn(8, 6, 2)
    list(model.objective().read_data(x, context))
    loss = model.objective()(x, context)
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)
    assert model(context).log_prob(x).isfinite().all()
    assert model(context).sample().shape == (8, 6, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UNet((3, 1, 4, 4, 4)), "`event_shape` must be"),
        (lambda: UNet((4, 2), (1, 4, 4)), "only where events are images or videos"),
        (lambda: UNet(VIDEO, (1, 4, 4)), r"must have sides \(5, 4\)"),
        (
            lambda: DiffusionTransformer((4, 2), (4,), classes=3)(torch.zeros(1, 4, 2), 0.0, torch.tensor([[-2] * 4])),
            "-1",
        ),
    ],
)
def test_what_does_not_fit_motion_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
