"""Tables of text: cells stand below their columns."""

import pytest

from pyrogen.evaluation import Estimate, table


def test_cells_stand_below_their_columns():
    rows = {"a": [Estimate(-1.25, 0.12), 3], "a longer name": [Estimate(10.0, 2.0)]}
    first, second, third = table(["nats", "draws", "never reached"], rows).splitlines()
    assert first.split() == ["nats", "draws"]
    assert second[first.index("nats") :].startswith("-1.25 ± 0.12 ")
    assert second[first.index("draws") :] == "3"
    assert third == "a longer name  10.0 ± 2.0"


def test_more_cells_than_columns_are_refused():
    with pytest.raises(ValueError, match="`rows` must have at most 1 cells, got 2 of 'a'"):
        table(["nats"], {"a": [1, 2]})
    assert table(["nats"], {}) == ""
