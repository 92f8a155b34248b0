"""Functions that parse: what a language model writes given that Python can read it, and how probable that is.

A small transformer learns the characters of short functions of Python's standard library. The rule is `ast.parse`, a
factor of the Pyro program. What is known of a prefix is whether its whole lines can be continued at all (`codeop`); a
second twist is learned by contrast, from what the first one found.

    python examples/parsing_code.py [--output output/parsing_code] [--seed 0] [--steps 700] [--length 64]
"""

from __future__ import annotations

import argparse
import ast
import codeop
import sysconfig
import warnings
from functools import lru_cache
from math import log
from pathlib import Path

import pyro
import torch

import pyrogen as pg
from pyrogen.inverse import Lookahead, SequenceSMC, TwistContrast, transformer_twist

END = 0


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("output/parsing_code"))
    for name, default in {"seed": 0, "steps": 700, "length": 64, "particles": 1000, "functions": 10_000}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", SyntaxWarning)  # of the parser
    pyro.set_rng_seed(options.seed)

    known = functions(options.length, options.functions)
    text = Text(sorted(set("".join(known))), options.length)
    x = text.encode(known)[torch.randperm(len(known))]
    held_out, x = x[: len(x) // 10], x[len(x) // 10 :]
    print(f"{len(known):,} functions of the standard library, of {len(text.letters)} characters; a tenth held out")
    prior = pg.autoregressive.transformer(
        (options.length,), symbols=len(text.letters) + 1, width=128, depth=3, heads=4, end=END, dropout=0.05
    )
    fit = pg.fit(prior, x, steps=options.steps, batch_size=32, lr=2e-3, clip=1.0, ema=0.99, seed=options.seed)
    with torch.no_grad():
        nats = -prior.eval()().log_prob(held_out[:200]).mean()
    print(f"{fit.history.seconds:.0f} s of training; {nats:.1f} nats a held-out function\n")

    plain = [text.decode(row) for row in prior().sample((options.particles,))]
    share = sum(map(parses, plain)) / len(plain)
    error = ((1 - share) / (share or 1) / len(plain)) ** 0.5
    print(f"Plain draws: {share:.1%} parse; the log-probability of the rule is {log(share or 1):.3f} ± {error:.3f}")

    def model() -> None:
        code = text.decode(pyro.sample("code", prior()))
        pyro.factor("parses", torch.tensor(0.0 if parses(code) else -torch.inf))

    method = SequenceSMC(model, site="code", particles=options.particles, twist=Lookahead(text.can_go_on))
    posterior = method.run()
    report("Given the rule, with a parser of prefixes", posterior, text, set(known))

    twist = transformer_twist((options.length,), symbols=len(text.letters) + 1, width=32, depth=1, heads=2, end=END)
    pairs = posterior.get_samples()["code"], prior().sample((options.particles,))
    pg.fit(TwistContrast(twist), pairs, steps=options.steps // 5 + 1, batch_size=100, seed=options.seed)
    learned = SequenceSMC(model, site="code", particles=options.particles, twist=twist.eval()).run()
    report("The same with a twist that was learned from these draws", learned, text, set(known))

    written = sorted({text.decode(row)[:-1] for row in posterior.get_samples()["code"]} - set(known), key=len)
    (options.output / "functions.py").write_text("\n\n".join(written))
    for code in written[len(written) // 3 :: len(written) // 3 + 1]:
        print("    " + code.replace("\n", "\n    ") + "\n")


def functions(length: int, most: int) -> list[str]:
    """Functions of the standard library that are shorter than this, without documentation, each once."""
    found: dict[str, None] = {}
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        if len(found) >= most or {"site-packages", "test", "tests", "lib2to3"}.intersection(path.parts):
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.FunctionDef):
                if ast.get_docstring(node) is not None:
                    node.body = node.body[1:] or [ast.Pass()]
                code = ast.unparse(node)
                if len(code) < length and code.isascii():
                    found[code] = None
    return list(found)[:most]


def parses(code: str) -> bool:
    """Whether it is Python, ended within the length, and defines something."""
    try:
        return code.endswith("\0") and bool(ast.parse(code[:-1]).body)
    except SyntaxError:
        return False


@lru_cache(100_000)
def begins(lines: str) -> bool:
    """Whether whole lines can be the beginning of a program."""
    try:
        codeop.compile_command(lines, symbol="exec")
    except (SyntaxError, ValueError, OverflowError):
        return False
    return True


class Text:
    """Strings as symbols: letters from 1 on, and an end."""

    def __init__(self, letters: list[str], length: int) -> None:
        self.letters, self.length = letters, length

    def encode(self, strings: list[str]) -> torch.Tensor:
        place = {letter: place for place, letter in enumerate(self.letters, 1)}
        rows = [[place[letter] for letter in string] for string in strings]
        return torch.tensor([row + [END] * (self.length - len(row)) for row in rows])

    def decode(self, symbols: torch.Tensor) -> str:
        """The string, and a zero character if it ends."""
        string, end, _ = "".join(("\0", *self.letters)[symbol] for symbol in symbols.tolist()).partition("\0")
        return string + end

    def can_go_on(self, prefixes: torch.Tensor) -> torch.Tensor:
        """The log-twist of prefixes: minus infinity where a line, or the end, has made them impossible."""
        turns = torch.isin(prefixes[:, -1], torch.tensor([END, self.letters.index("\n") + 1]))
        fine = [
            not turn or (parses(code) if code.endswith("\0") else begins(code))
            for turn, code in zip(turns.tolist(), map(self.decode, prefixes), strict=True)
        ]
        return torch.where(torch.tensor(fine), 0.0, -torch.inf)


def report(title: str, posterior: SequenceSMC, text: Text, known: set[str]) -> None:
    draws = [text.decode(row) for row in posterior.get_samples()["code"]]
    different = set(draws)
    new = len(different - {code + "\0" for code in known}) / len(different)
    error = posterior.diagnostics().standard_error.item()
    print(f"{title}:\n   {sum(map(parses, draws)) / len(draws):.1%} parse, {len(different)} of {len(draws)} differ, "
          f"{new:.0%} of these are new; log evidence {posterior.log_evidence:.3f} ± {error:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
