"""What the tests of this room share: small alphabets, enumerated."""

import torch
from scipy.stats import chi2


def jiggled(model, size=0.3):
    """The model in evaluation mode, away from its even start."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return model.eval()


def enumerated(length, symbols, dtype=torch.long):
    """All sequences, in lexical order."""
    return torch.cartesian_prod(*[torch.arange(symbols)] * length).reshape(-1, length).to(dtype)


def frequencies_p_value(draws, events, log_probs):
    """The p-value of a chi-square test of draws against the probabilities of all events; 0 if one is impossible."""
    symbols = int(events.max()) + 1
    powers = symbols ** torch.arange(events.shape[1] - 1, -1, -1)
    counts = torch.bincount((draws.long() * powers).sum(-1), minlength=len(events)).double()
    expected = log_probs.detach().double().exp() * len(draws)
    if counts[expected < 1e-6].any():
        return 0.0
    rare = expected < 5
    if rare.any():  # rare events count as one
        counts = torch.cat([counts[~rare], counts[rare].sum(0, keepdim=True)])
        expected = torch.cat([expected[~rare], expected[rare].sum(0, keepdim=True)])
    kept = expected > 1e-6
    statistic = ((counts - expected)[kept].square() / expected[kept]).sum().item()
    return float(chi2.sf(statistic, int(kept.sum()) - 1)) if kept.sum() > 1 else 1.0
