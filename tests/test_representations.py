"""What things say of themselves: what they are, in a line, without tensors and addresses."""

import pytest
from test_pyro_interfaces import FAMILIES, NOISY, hutchinson

import pyrogen as pg
from pyrogen import diffusion

SETTINGS = [
    diffusion.FlowGrid(5),
    diffusion.KarrasGrid(5),
    diffusion.Multistep(),
    diffusion.Churn(diffusion.UniformGrid(3)),
    diffusion.PredictorCorrector(diffusion.DDIM(diffusion.LogSNRGrid(3))),
    diffusion.Adaptive(),
    diffusion.DataPrediction(noise=0.5),
    diffusion.Preconditioned(data_scale=0.5),
    diffusion.NormalReference(scale=2.0),
    diffusion.LogSNRTimes(),
    pg.families.bernoulli,
    pg.families.categorical(3),
]


def is_plain(text):
    return "tensor(" not in text and "0x" not in text and "object at" not in text and len(text) < 600


@pytest.mark.parametrize("family", [*FAMILIES, *NOISY])
def test_distributions_say_what_they_are(family):
    module = FAMILIES[family](None) if family in FAMILIES else NOISY[family][0]()
    distribution = module().expand((3,))
    text = repr(distribution)
    assert type(distribution).__name__ in text
    assert is_plain(text), text
    assert "3" in text  # its batch shape
    assert is_plain(repr(distribution.mask(True)))


def test_a_flow_names_its_base_and_its_layers():
    text = repr(FAMILIES["interval"](None)())
    assert text.startswith("TransformedDistribution(UnitNormal(batch_shape=(), event_shape=(2,)), [")
    assert "Interval], batch_shape=(), event_shape=(2,))" in text
    assert "ODE" in repr(hutchinson()())


@pytest.mark.parametrize("thing", SETTINGS, ids=lambda thing: type(thing).__name__)
def test_settings_are_spelled_out(thing):
    text = repr(thing)
    assert text.startswith(f"{type(thing).__name__}(")
    assert is_plain(text)


def test_numbers_of_a_setting_stand_in_it():
    assert repr(diffusion.Preconditioned(data_scale=0.5)) == "Preconditioned(data_scale=0.5)"
    assert "steps=5" in repr(diffusion.Heun(diffusion.FlowGrid(5)))


def test_modules_say_nothing_of_their_weights():
    for make in FAMILIES.values():
        assert "tensor(" not in repr(make(None))
