"""What every sequence network must do: compute in steps what it computes in one pass."""

import torch


def check_steps(network, symbols, context=None, tolerance=1e-5):
    """One pass, steps, a prompt read at once, and selected rows agree at every place; nothing looks ahead."""
    network.eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        outputs = network(symbols, context)
        rows, length = symbols.shape[:2]
        output, state = network.step(None, network.start((rows,), context))
        for place in range(length):
            _close(output, outputs[:, place], tolerance, f"step {place}")
            if place + 1 < length:
                output, state = network.step(symbols[:, place], state)
        for count in range(1, length):
            output, state = network.read(symbols[:, :count], network.start((rows,), context))
            _close(output, outputs[:, count], tolerance, f"after reading {count} symbols")
            if count + 1 < length:
                output, _ = network.step(symbols[:, count], state)
                _close(output, outputs[:, count + 1], tolerance, f"a step after reading {count} symbols")
        _check_select(network, symbols, context, outputs, tolerance)
        changed = symbols.clone()
        changed[:, -2:] = symbols[:, -2:].flip(0)
        _close(network(changed, context)[:, :-1], outputs[:, :-1], tolerance, "with other symbols at the end")


def _check_select(network, symbols, context, outputs, tolerance):
    rows = torch.tensor([len(symbols) - 1, 0, 0])
    output, state = network.read(symbols[:, :1], network.start((len(symbols),), context))
    chosen = state.select(rows)
    output, state = network.step(symbols[:, 1], state)  # must leave the copy alone
    output, _ = network.step(symbols[rows, 1], chosen)
    _close(output, outputs[rows, 2], tolerance, "after selecting rows")


def _close(found, expected, tolerance, what):
    gap = (found - expected).abs().max().item()
    assert gap <= tolerance, f"{what}: outputs differ by {gap:.1e}"
