"""Reading Pyro programs: sites, runs with given values, the data plate and what belongs to single rows."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal
from pyro.infer.reparam import DiscreteCosineReparam, HaarReparam, LocScaleReparam
from torch import nn

from pyrogen.programs import data_plate, run
from pyrogen.programs.data_plate import DataCount, FullSize
from pyrogen.programs.reading import drawn_together, global_sites, row_parameters
from pyrogen.programs.run import Record
from pyrogen.programs.site import Plate


def hierarchical(x, plate=None):
    """One global latent, one for each row."""
    center = pyro.sample("center", dist.Normal(0.0, 1.0))
    with plate or pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(center, 1.0))
        pyro.deterministic("twice", 2 * z)
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def read(model, guide, *batch):
    with Record() as record:
        Trace_ELBO().differentiable_loss(model, guide, *batch)
    return record


def test_a_run_gives_its_sites_and_obeys_values():
    x = torch.zeros(3)
    found = run(hierarchical, (x,), given={"center": torch.tensor(2.0)})
    assert list(found.sites) == ["center", "z", "x"]
    assert found.sites["center"].value == 2
    assert found.sites["z"].distribution.mean.tolist() == [2, 2, 2]
    assert found.sites["z"].plates == (Plate("data", -1, 3, 3),)
    assert found.sites["x"].observed
    assert not found.sites["z"].observed
    assert found.indices["data"].tolist() == [0, 1, 2]


def test_the_log_prob_of_a_site_is_masked_and_not_scaled():
    def model():
        with (
            pyro.plate("data", 10, subsample=torch.tensor([3, 4])),
            pyro.poutine.mask(mask=torch.tensor([True, False])),
        ):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=torch.zeros(2))

    found = run(model)
    assert found.sites["x"].scale == 5
    assert torch.allclose(found.sites["x"].log_prob(), torch.tensor([-0.9189, 0.0]), atol=1e-4)
    assert found.indices["data"].tolist() == [3, 4]
    assert found.sites["x"].plates == (Plate("data", -1, 2, 10),)


def test_values_computed_elsewhere_are_no_sites():
    model = pyro.poutine.reparam(hierarchical, config={"z": LocScaleReparam(0.0)})
    assert set(run(model, (torch.zeros(3),)).sites) == {"center", "z_decentered", "x"}


@pytest.mark.parametrize("reparam", [HaarReparam, DiscreteCosineReparam])
def test_a_point_mass_of_its_own_value_is_computed_and_one_of_data_observed(reparam):
    @pyro.poutine.reparam(config={"z": reparam(dim=-1)})
    def model(y):
        z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        pyro.sample("y", dist.Delta(z, event_dim=1), obs=y)

    kinds = {name: site.kind for name, site in run(model, (torch.zeros(4),)).statements.items()}
    assert [kinds["z"], kinds["y"]] == ["computed", "observed"]


@pytest.mark.parametrize(
    ("plate", "rows", "expected"),
    [
        (lambda: pyro.plate("data", 6), 6, ("data", 6, 6)),
        (lambda: pyro.plate("data", 90, subsample_size=6), 6, ("data", 6, 90)),
        (lambda: pyro.plate("data", 90, subsample=torch.arange(6)), 6, ("data", 6, 90)),
        (lambda: pyro.plate("data", 90, subsample_size=6), 90, ("data", 6, 90)),  # the model subsamples by itself
        (lambda: pyro.plate("data", 6), 7, None),
    ],
)
def test_the_data_plate_and_its_full_size(plate, rows, expected):
    with DataCount() as count, Record() as record:
        hierarchical(torch.zeros(6), plate())
    found = data_plate(record.sites, rows)
    assert (found and (found.name, found.rows, found.size)) == expected
    assert count.of(rows) == (expected[2] if expected else rows)


def test_plates_of_features_are_no_data_plates():
    def model(x):
        with pyro.plate("features", 5, dim=-2):
            weight = pyro.sample("weight", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(weight.sum(), 1.0), obs=x)

    assert data_plate(run(model, (torch.zeros(5),)).sites.values(), 5).name == "data"


def test_two_plates_of_the_same_length_are_refused_by_name():
    def model(x):
        with pyro.plate("features", 5, dim=-2), pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x.expand(5, len(x)))

    assert data_plate(run(model, (torch.zeros(4),)).sites.values(), 4).name == "data"
    with pytest.raises(ValueError, match=r"only plate of 5 rows.*\['data', 'features'\]"):
        data_plate(run(model, (torch.zeros(5),)).sites.values(), 5)


def test_full_size_scales_what_is_inside_the_plate_as_subsampling_does():
    x = torch.randn(4)

    def trace(plate, handler):
        with handler, Record() as record:
            pyro.poutine.condition(hierarchical, {"center": torch.tensor(0.0)})(x, plate)
        return {site.name: (float(site.scale), site.plates) for site in record.sites}

    written = trace(pyro.plate("data", 20, subsample_size=4, dim=-1), FullSize({"data": 20}))
    assert trace(pyro.plate("data", 4, dim=-1), FullSize({"data": 20})) == written
    assert written["z"] == (5.0, (Plate("data", -1, 4, 20),))
    assert written["center"] == (1.0, ())


class Amortized(nn.Module):
    """A guide as wide as a minibatch of eight rows is long."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
        self.table = nn.Embedding(8, 1)
        self.center = nn.Parameter(torch.zeros(()))

    def forward(self, x, label):
        pyro.sample("center", dist.Normal(self.center, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.network(x[:, None])[:, 0] + self.table(label)[:, 0], 1.0))


class Owning(nn.Module):
    """A guide with a number for each row of a minibatch."""

    def __init__(self, rows=8):
        super().__init__()
        self.center = nn.Parameter(torch.zeros(()))
        self.loc = nn.Parameter(torch.zeros(rows))

    def forward(self, x, label):
        pyro.sample("center", dist.Normal(self.center, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc[: len(x)], 1.0))


def found_for(guide, model=lambda x, label: hierarchical(x)):
    torch.manual_seed(0)
    record = read(model, guide, torch.randn(8), torch.tensor([3, 1, 7, 7, 0, 2, 5, 4]))
    plate = data_plate(record.sites, 8)
    assert "center" in global_sites(record.sites, plate)
    return row_parameters(record, plate, dict(guide.named_parameters())), drawn_together(record.sites, plate)


def test_parameters_of_single_rows_are_found():
    def model(x, label):
        hierarchical(x)

    assert found_for(Owning()) == (["loc"], [])
    assert found_for(AutoNormal(model))[0] == ["locs.z_unconstrained", "scales.z_unconstrained"]
    assert found_for(AutoDelta(model))[0] == ["z_unconstrained"]
    assert found_for(AutoDiagonalNormal(model))[1] == ["z"]


def test_networks_and_tables_are_not_taken_for_parameters_of_rows():
    for _ in range(3):
        assert found_for(Amortized()) == ([], [])


def test_rows_that_the_plate_draws_count_as_rows():
    """``subsample_size`` draws rows of its own, which are not those that the program was called with."""

    def model(x, label):
        hierarchical(x, pyro.plate("data", 30, subsample_size=len(x)))

    guide = AutoNormal(model, create_plates=lambda x, label: pyro.plate("data", 30, subsample_size=len(x)))
    names = found_for(guide, model)[0]
    assert names
    assert all(".z" in name for name in names)
