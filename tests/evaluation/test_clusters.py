"""Classes without names: the best naming, against all of them."""

from itertools import permutations

import pytest
import torch

from pyrogen.evaluation import matched_clusters


@pytest.mark.parametrize("seed", range(5))
def test_the_naming_is_the_best_of_all(seed):
    generator = torch.Generator().manual_seed(seed)
    found, labels = (torch.randint(4, (30,), generator=generator) for _ in range(2))
    matched = matched_clusters(found, labels)
    most = max(int((torch.tensor(names)[found] == labels).sum()) for names in permutations(range(4)))
    assert int(matched.sum()) == most
    names = {(int(code), int(label)) for code, label in zip(found[matched], labels[matched], strict=True)}
    assert len(names) == len({code for code, _ in names}) == len({label for _, label in names})


def test_there_may_be_more_classes_than_labels_and_fewer():
    assert matched_clusters(torch.tensor([0, 1, 2, 2]), torch.tensor([5, 5, 0, 0])).tolist() in (
        [True, False, True, True],
        [False, True, True, True],
    )
    assert matched_clusters(torch.tensor([3, 3]), torch.tensor([0, 1])).sum() == 1
    assert matched_clusters(torch.zeros(0), torch.zeros(0)).shape == (0,)


def test_what_are_no_classes_is_refused():
    with pytest.raises(ValueError, match="`found` must be integers of at least zero"):
        matched_clusters(torch.tensor([0.5]), torch.tensor([0]))
    with pytest.raises(ValueError, match="`labels` must be integers of at least zero"):
        matched_clusters(torch.tensor([0]), torch.tensor([-1]))
    with pytest.raises(ValueError, match="`labels` must be as many as the 1 classes"):
        matched_clusters(torch.tensor([0]), torch.tensor([0, 1]))
