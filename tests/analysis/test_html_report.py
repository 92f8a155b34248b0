"""Truth: a report shows the numbers that evaluation gives, hides no verdict, and says why a part is not there."""

import html
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal

import pyrogen as pg
from pyrogen.analysis import report
from pyrogen.analysis.page import page, paragraph, section_of
from pyrogen.analysis.posterior_numbers import Number
from pyrogen.analysis.posterior_report import Checks, PosteriorReport
from pyrogen.analysis.verdicts import Verdict
from pyrogen.evaluation import TestResult, log_likelihood, predictive_check
from pyrogen.numerics.markov.convergence import r_hat
from pyrogen.training.progress import Fit, History

FIT = Fit(History([[3.0, 2.0, 1.0]], [[]], {1: 2.0, 3: 1.5}), 3, "patience")


class Text(HTMLParser):
    """The text of a page, its rows, and whether its tags are balanced."""

    VOID = ("meta", "img")

    def __init__(self, page):
        super().__init__()
        self.rows, self.open, self.links, self.titles, self.words = [], [], [], [], []
        self.feed(page.html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1].append(data)
        if self.open and self.open[-1] == "h2":
            self.titles.append(data)
        if self.open and self.open[-1] not in ("style", "pre"):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


class Normal(pg.DistributionModule):
    """A normal, whose declared density may be anything."""

    def __init__(self, scale=1.0, density="exact", shape=(2,)):
        super().__init__(shape)
        self.scale, self.density = scale, density

    def forward(self, context=None):
        return dist.Normal(torch.zeros(self.event_shape), self.scale).to_event(len(self.event_shape))


def data(rows=200, *shape, seed=0):
    return torch.randn(rows, *(shape or (2,)), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def of_model():
    return report(Normal(), data(300), held_out=data(200, seed=1), history=FIT, title="A & B <model>", seed=0)


def test_the_numbers_of_a_model_are_those_of_evaluation(of_model):
    found, rows = log_likelihood(Normal(), data(200, seed=1)), {row[0]: row[1:] for row in Text(of_model).rows if row}
    assert rows["held-out data"] == [found.rounded(), "nats", "exact", "200"]
    assert rows["best held out"] == ["1.5 at step 3, whose weights remain"]
    gaussian = dist.MultivariateNormal(data(300).mean(0), torch.cov(data(300).T))
    gain = pg.evaluation.log_likelihood_difference(Normal(), gaussian, data(200, seed=1))
    assert rows["held-out data, more than a Gaussian"][0] == gain.rounded()
    assert f"Log-likelihood of held-out data: {found} per datum." in Text(of_model).text
    least = log_likelihood(Normal(), data(200, seed=1)), pg.evaluation.log_probs(Normal(), data(200, seed=1))
    assert rows[str(int(least[1].argmin()))][0] == f"{float(least[1].min()):.4g}"


def test_a_right_model_passes_and_a_wrong_one_does_not(of_model):
    assert of_model.verdict == Verdict("passed", "No fault found by 2 checks.")
    wrong = report(Normal(0.5), held_out=data(200, seed=1), seed=0)
    assert wrong.verdict.grade == "failed"
    assert wrong.verdict.text in Text(wrong).text
    assert "draws of x[0] are too narrow" in Text(wrong).text
    assert "data are less probable than draws" in Text(wrong).text
    assert "Samples can be told from held-out data (energy distance" in Text(wrong).text


def test_a_page_stands_alone(of_model):
    found = Text(of_model)
    assert found.titles[:3] == ["The model", "Training", "Samples beside held-out data"]
    assert all(link.startswith(("data:image/svg+xml;base64,", "#")) for link in found.links)
    assert not re.search(r"https?:|@import|url\(", of_model.html.replace("http://www.w3.org", ""))
    assert {f"#{name}" for name in re.findall(r'<section id="([^"]+)"', of_model.html)} == {
        link for link in found.links if link.startswith("#")
    }
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", of_model.html)
    assert len(captions) == of_model.html.count("<img") >= 5
    assert any("nats per datum" in caption for caption in captions)


def test_text_on_a_page_is_escaped(of_model):
    assert "<model>" not in of_model.html
    assert "<title>A &amp; B &lt;model&gt;</title>" in of_model.html
    made = page("<i>", "&", [section_of("<b>", iter([paragraph("<u>"), Verdict("failed", "<s>")]))], "<p>")
    assert not re.search(r"<[ibus]>", made.html)


@pytest.mark.parametrize(
    ("density", "words"),
    [
        ("estimate", "The log-likelihood is an estimate"),
        ("lower bound", "It is a lower bound: the log-likelihood itself is larger"),
        ("unnormalized", "There is no log-likelihood: log_prob lacks an unknown constant"),
        (None, "There is no log-likelihood: the model is implicit"),
    ],
)
def test_every_density_is_told_for_what_it_is(density, words):
    made = report(Normal(density=density), data(60), held_out=data(40, seed=1), rows=40, draws=9, seed=0)
    found = Text(made)
    assert words in found.text
    assert "energy distance" in found.text
    numbers = [row for row in found.rows if row and row[0] == "held-out data" and "nats" in row]
    assert [row[3] for row in numbers] == ([density] if density in ("estimate", "lower bound") else [])
    assert ("without a log_prob no datum is more or less probable" in found.text) == (density is None)


def test_pictures_series_labels_and_integers():
    images = report(Normal(shape=(1, 6, 6)), held_out=data(40, 1, 6, 6), rows=40, draws=4, seed=0)
    assert images.html.count('<figure class="picture"') == 3
    assert "36 numbers" not in images.html
    series = report(Normal(shape=(30,)), held_out=data(40, 30), rows=40, draws=4, seed=0)
    assert "The 12 of 30 numbers whose distributions differ most" in Text(series).text
    labelled = pg.autoregressive.made((2,), symbols=3, hidden=(8,), classes=2)
    x, y = torch.randint(3, (40, 2)), torch.randint(2, (40,))
    made = Text(report(labelled, (x, y), held_out=(x, y), rows=40, draws=4, seed=0))
    assert "each sample at the context of the datum in its place" in made.text
    bits = pg.evaluation.bits_per_dimension(labelled, x, y, log_volume=0.0)
    assert [bits.rounded(), bits.unit] in [row[1:3] for row in made.rows]


def test_a_part_that_cannot_be_computed_says_why():
    class NoDraws(Normal):
        def forward(self, context=None):
            raise ValueError("no <draws> here")

    made = report(NoDraws(), held_out=data(40), seed=0)
    assert Text(made).text.count("Not computed: no <draws> here") >= 3
    assert made.verdict == Verdict("noted", "Nothing was checked.")
    assert "Calibration: not computed, see below." in [verdict.text for verdict in made.verdicts]


def test_without_held_out_data_the_page_says_so():
    made = report(Normal(), data(60), rows=40, draws=4, seed=0)
    assert made.verdicts[0].text.startswith("No held-out data were given")
    assert Text(report(Normal())).titles == ["The model"]


# Posteriors


def schools(y=None):
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    with pyro.plate("school", 3):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


Y = torch.tensor([1.0, 2.0, 0.5])
EXACT = dist.Normal(3.5 / 3.25, 3.25**-0.5)


def draws(chains=4, count=250, seed=0):
    noise = torch.randn(chains * count, generator=torch.Generator().manual_seed(seed))
    return EXACT.loc + EXACT.scale * noise


def test_a_good_posterior_passes_and_shows_its_numbers(arviz):
    tree = pg.analysis.to_arviz({"mean": draws()}, Y, model=schools, chains=4, prior=500, seed=0)
    made = report(tree, truth={"mean": 1.0})
    assert made.verdict == Verdict("passed", "No fault found by 2 checks.")
    row = next(row for row in Text(made).rows if row[:1] == ["mean"] and len(row) == 8)
    summary = arviz.summary(tree, var_names=["mean"], round_to="none", kind="all").iloc[0]
    assert float(row[1]) == pytest.approx(draws().mean().item(), rel=1e-3)
    assert float(row[3]) == pytest.approx(summary["r_hat"], abs=1e-3)
    assert float(row[4]) == pytest.approx(summary["ess_bulk"], rel=0.02)
    assert float(row[5]) == pytest.approx(summary["ess_tail"], rel=0.02)
    assert "Grey: the prior. Red: the truth." in Text(made).text


@pytest.mark.parametrize(
    ("values", "chains", "grade", "words"),
    [
        (draws() + torch.arange(4).repeat_interleave(250), 4, "failed", "The chains have not converged: R-hat at most"),
        (draws(4, 40), 4, "doubtful", "The chains are too short for good quantiles"),
        (draws(1, 1000), 1, "passed", "The chains have converged"),
    ],
    ids=["apart", "short", "one"],
)
def test_a_bad_r_hat_is_told_on_top(values, chains, grade, words):
    made = report(pg.analysis.to_arviz({"mean": values}, chains=chains))
    assert made.verdict.grade == grade
    verdict = next(verdict for verdict in made.verdicts if words in verdict.text)
    assert verdict.grade == grade
    assert verdict.text in Text(made).text.partition(" Summary ")[0]


def test_a_collapse_is_told_on_top():
    posterior = pg.inverse.ManyChains(schools, chains=4, warmup=4, draws=4, seed=0).run(Y)
    assert posterior.diagnostics().collapsed
    made = report(posterior, Y, seed=0)
    assert made.verdict.grade == "failed"
    assert made.verdict.text.startswith("Do not rely on this posterior")
    assert made.verdicts[0] == Verdict("failed", posterior.diagnostics().warning)
    assert html.escape(posterior.diagnostics().warning) in made.html.partition("<nav>")[0]
    assert "none: Markov chains do not estimate the evidence" in Text(made).text


def test_a_guide_is_judged_by_its_weights():
    pyro.clear_param_store()
    guide = AutoNormal(schools)
    guide(Y)
    far = report(guide, Y, seed=0)
    assert "The guide is near the posterior" not in far.html
    with torch.no_grad():
        guide.locs.mean.fill_(EXACT.loc)
        guide.scales.mean = EXACT.scale
    for posterior in (guide, SVI(schools, guide, pyro.optim.Adam({}), Trace_ELBO())):
        near = report(posterior, Y, seed=0)
        assert "The guide is near the posterior: importance weights have Pareto k" in near.verdicts[0].text
        assert "compare chains, and cannot tell whether a guide is right" in Text(near).text


def test_a_posterior_of_a_simulator_takes_checks_made_before():
    torch.manual_seed(0)
    joint = pg.simulation.Joint(schools, observed="y")
    posterior = pg.simulation.posterior(joint)
    check = predictive_check({"y": Y + torch.randn(2000, 3)}, Y + 9)
    made = report(
        posterior, Y, history=FIT, misspecification=TestResult(1.0, 0.4, "distance", torch.rand(99)), predictive=check
    )
    found = Text(made)
    assert {"Training", "Checks by simulation", "Predictive check"} <= set(found.titles)
    assert "The observed data are like simulated ones (distance, p = 0.4)." in found.text
    assert "may have no likelihood" in found.text
    assert any(v.text.startswith("Not tested: calibration.") for v in made.verdicts)
    assert not any("Pareto k" in v.text for v in made.verdicts)
    assert any(v.grade == "failed" and "Replicated data do not reproduce" in v.text for v in made.verdicts)


def weighed(a=None, b=None):
    rate = pyro.sample("rate", dist.Uniform(2.0, 3.0))
    pyro.sample("a", dist.Normal(rate, 1.0), obs=a)
    pyro.sample("b", dist.Normal(rate, 2.0).expand([2]).to_event(1), obs=b)


def test_a_posterior_takes_several_observed_sites_by_name_and_shows_its_prior():
    torch.manual_seed(0)
    posterior = pg.simulation.posterior(pg.simulation.Joint(weighed, observed=["a", "b"]))
    data = {"a": torch.tensor(1.0), "b": torch.ones(2)}
    made = report(posterior, data, seed=0)
    found = Text(made)
    assert "Grey: the prior." in found.text
    assert any("Replicated data" in verdict.text for verdict in made.verdicts)
    tree = pg.analysis.to_arviz(posterior, data, draws=50, seed=0)
    same = pg.analysis.to_arviz(posterior, *data.values(), draws=50, seed=0)
    assert torch.equal(*(torch.as_tensor(t["posterior"]["rate"].values) for t in (tree, same)))
    assert {name: value.values.shape for name, value in tree["observed_data"].items()} == {"a": (), "b": (2,)}
    with pytest.raises(ValueError, match="must be called with the data of all observed sites"):
        pg.analysis.to_arviz(posterior, {"a": torch.tensor(1.0)}, draws=5)


def test_computed_sites_are_replicated_too():
    def program():
        rate = pyro.sample("rate", dist.Uniform(2.0, 3.0))
        noise = pyro.sample("noise", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.deterministic("a", rate + noise[..., 0])
        pyro.deterministic("b", rate + noise[..., 1])

    torch.manual_seed(0)
    joint = pg.simulation.Joint(program, observed=["a", "b"], nuisance="noise")
    made = report(pg.simulation.posterior(joint), {"a": torch.tensor(2.0), "b": torch.tensor(90.0)}, seed=0)
    assert any(verdict.text.startswith("Replicated data do not reproduce b (") for verdict in made.verdicts)


def test_the_prior_of_a_learned_posterior_is_that_of_its_program():
    posterior = pg.simulation.posterior(pg.simulation.Joint(weighed, observed=["a", "b"]))
    found = PosteriorReport(posterior, None, True, False, None, {}, Checks())
    (drawn,) = found._prior([Number("rate", np.zeros((1, 4)), 1.0, 4.0, 4.0, 4.0)]).values()
    assert len(drawn) == 1000
    assert 2 < drawn.min() < 2.05
    assert 2.95 < drawn.max() < 3


def test_many_converged_numbers_pass_and_one_that_has_not_does_not():
    torch.manual_seed(0)
    many = torch.randn(4 * 200, 400)
    assert r_hat(many.reshape(4, 200, 400)).max() > 1.01

    def grade(draws):
        verdicts = report(pg.analysis.to_arviz({"z": draws}, chains=4)).verdicts
        return next(verdict.grade for verdict in verdicts if "R-hat at most" in verdict.text)

    assert grade(many) == "passed"
    many[:, 7] += 0.25 * torch.arange(4).repeat_interleave(200)
    assert grade(many) == "doubtful"


def test_draws_without_a_model_are_shown_with_what_is_missing():
    made = report({"z": torch.randn(400, 40), "image": torch.rand(400, 5, 5)}, seed=0)
    found = Text(made)
    assert "24 of 65 numbers, those with the smallest effective sample size." in found.text
    assert "there are no replications of observed data" in found.text
    assert "Pictures of image" in found.titles


# The page


def test_a_page_knows_its_place_and_shows_itself(of_model, tmp_path):
    assert of_model.path is None
    saved = of_model.save(tmp_path / "page.html")
    assert saved.path.read_text(encoding="utf-8") == of_model.html
    assert repr(saved) == f"<Page in {saved.path}: A & B <model>. No fault found by 2 checks.>"
    frame = of_model._repr_html_()
    assert frame.startswith("<iframe srcdoc=")
    assert html.unescape(frame).count("<!DOCTYPE html>") == 1
    assert report(Normal(), path=tmp_path / "other.html").path.exists()


def test_the_seed_decides_and_nothing_else_changes():
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    first, second = (report(Normal(), held_out=data(40), rows=40, draws=4, seed=1) for _ in range(2))
    assert torch.equal(state, torch.random.get_rng_state())
    assert first.verdicts == second.verdicts


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: report(Normal(), data(), truth={"x": 1.0}),
            TypeError,
            "`truth` is for a posterior, got the model",
        ),
        (lambda: report({"z": data()}, held_out=data()), TypeError, "`held_out` is for a model, got dict"),
        (lambda: report(Normal(), data(), data()), TypeError, "`data` of a model must be events, or one pair"),
        (lambda: report(Normal(), data(10)), ValueError, "`data` must hold at least 20 rows, got 10"),
        (lambda: report(Normal(), held_out=data(40, 3)), ValueError, r"must end in shape \(2,\)"),
        (lambda: report(Normal(), data(), history=3), TypeError, "`history` must be what `pg.fit` returned"),
        (lambda: report(Normal(), data(), rows=0), ValueError, "`rows` must be at least 1"),
        (lambda: report({"z": data()}, truth={"w": 1.0}), ValueError, r"`truth` must have sites of \['z'\]"),
        (lambda: report({"z": data()}, truth={"z": [1.0]}), ValueError, r"`truth\['z'\]` must have shape \(2,\)"),
        (
            lambda: report({"z": data()}, truth={"z": [1.0, math.nan]}),
            ValueError,
            r"`truth\['z'\]` must",
        ),
        (lambda: report(Normal(), data(), title=3), TypeError, "`title` must be a str, got int"),
        (lambda: report(3), ValueError, "`posterior` must be an MCMC run"),
        (lambda: report({"z": data()}, local=TestResult(1.0, 0.5)), TypeError, "`local` must be a LocalCalibration"),
    ],
)
def test_what_cannot_be_reported_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs the browser chromium")
@pytest.mark.parametrize("width", [400, 1300])
def test_a_browser_shows_the_whole_width(of_model, tmp_path, width):
    probe = (
        "<script>document.title = [...document.images].every(i => i.naturalWidth > 0) + ' ' + "
        "(document.documentElement.scrollWidth <= window.innerWidth)</script></body>"
    )
    path = tmp_path / "page.html"
    path.write_text(of_model.html.replace("</body>", probe), encoding="utf-8")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    command += [f"--window-size={width},2000", "--virtual-time-budget=2000", "--dump-dom", path.as_uri()]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    assert "<title>true true</title>" in shown
