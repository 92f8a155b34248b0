"""What notebooks show of modules, fits, estimates and answers: short tables of facts, all text escaped."""

from html.parser import HTMLParser

import pyro
import pyro.distributions as dist
import pytest
import torch
from test_pyro_interfaces import FAMILIES

import pyrogen as pg
from pyrogen.evaluation import Estimate, TestResult
from pyrogen.inverse.answer import Answer, DrawDiagnostics, Results
from pyrogen.markup import notebook_table, table
from pyrogen.training.progress import Fit, History


class Cells(HTMLParser):
    """The rows of the tables of a page, and whether its tags are balanced."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.open, self.text = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1].append(data)


def shown(thing):
    found = Cells(thing._repr_html_())
    assert not found.open
    return dict(found.rows), " ".join(found.text)


def test_a_module_shows_what_it_is():
    flow = pg.flows.affine_coupling((2,), classes=3, layers=2)
    facts, text = shown(flow)
    assert text.startswith("Flow")
    assert facts["family"] == "pyrogen.flows.Flow, built by pyrogen.flows.affine_coupling"
    assert facts["events"] == "of shape (2,)"
    assert facts["context"] == "one number or label"
    assert facts["log_prob"] == "exact: the log-density"
    assert facts["parameters"] == f"{sum(p.numel() for p in flow.parameters()):,}"
    for parameter in flow.bijections[0].parameters():
        parameter.requires_grad_(False)
    assert "frozen" in shown(flow)[0]["parameters"]
    assert shown(flow.bijections[0])[0]["events"] == "of shape (2,)"


def test_contexts_and_parameters_of_all_kinds():
    network = torch.nn.LazyLinear(4)
    module = pg.Parametric(network, pg.families.diagonal_normal, event_shape=2, context_shape={"a": (3,), "b": ()})
    facts, _ = shown(module)
    assert facts["context"] == "a of shape (3,), b of shape ()"
    assert facts["parameters"] == "0, more at the first call"
    assert facts["family"] == "pyrogen.core.Parametric"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_its_density_in_words(family):
    module = FAMILIES[family](None)
    facts, _ = shown(module)
    assert facts["log_prob"].startswith({"unnormalized": "unnormalized", None: "none"}.get(module.density, ""))
    assert (module.density or "none") in facts["log_prob"]


def test_a_fit_shows_its_end_and_its_best_step():
    history = History([[3.0, 2.0, 1.25]], [[]], {1: 2.0, 3: 1.5}, seconds=61.26)
    facts, _ = shown(Fit(history, 3, "patience"))
    assert facts == {
        "steps": "3, until the held-out loss no longer fell",
        "time": "61.3 s",
        "last loss": "1.25 nats per datum",
        "best held out": "1.5 at step 3, whose weights remain",
    }
    facts, _ = shown(Fit(History([[1.0], [2.0]], [[], []], unit=""), 1, "steps"))
    assert (facts["last loss of turn 1"], facts["last loss of turn 2"]) == ("1", "2")
    assert "best held out" not in facts
    assert shown(Fit(History([[]], [[]]), 0, "epochs"))[0]["steps"] == "0, all epochs that were asked for"


def test_estimates_and_tests_show_what_they_print():
    estimate = Estimate(-61.314, 0.42, "nats", "lower bound")
    assert shown(estimate)[0] == {"value": "-61.31 ± 0.42", "unit": "nats", "log_prob": "lower bound"}
    assert shown(Estimate(0.5, 0.1, "accuracy", None))[0] == {"value": "0.50 ± 0.10", "unit": "accuracy"}
    assert shown(TestResult(3.0, 0.001, "distance"))[0] == {"distance": "3", "p-value": "0.001"}


class Few(Answer):
    """A draw or two of a normal."""

    def infer(self, args, kwargs):
        return Results({"z": torch.randn(*args)}, Doubted(args[0], "a normal"))


class Doubted(DrawDiagnostics):
    """Draws that are not to be trusted where there are fewer than ten."""

    @property
    def contradicted(self):
        return torch.tensor(self.draws < 10)


def model():
    return pyro.sample("z", dist.Normal(0.0, 1.0))


def test_an_answer_shows_its_draws_and_never_hides_a_collapse():
    answer = Few(model)
    assert shown(answer)[1] == "Few, not run"
    facts, text = shown(answer.run(20, 3))
    assert facts == {"z": "20 draws of shape (3,)", "diagnostics": "20 independent draws of a normal"}
    assert "COLLAPSED" not in text
    _, text = shown(answer.run(3))
    assert answer.diagnostics().warning in text
    assert "COLLAPSED" in text
    assert "<strong" in answer._repr_html_()


def test_text_is_escaped():
    page = notebook_table("<b>", {"<i>": "a & b"}, warning="<script>")
    assert "<b>" not in page
    assert "<script>" not in page
    assert Cells(page).rows == [["<i>", "a & b"]]
    assert Cells(table([["x", 1, 2.5]], header=["", "<mean>", "sd"])).rows == [
        ["", "<mean>", "sd"][1:],
        ["x", "1", "2.5"],
    ]
