"""What a draw and a training step cost: causal transformers beside x-transformers and Hugging Face.

All networks have width 128, depth 4, 4 heads, perceptrons four times as wide and 256 symbols; all are used as their
libraries mean them to be, with caches and without gradients, on one thread. Variants take turns in random order; the
figures are medians of CPU time and of the ratios within a round; batches of 16 have one round. GPT-2 has learned
places, the others rotate; the gated perceptrons of Llama are narrower, for an equal number of weights.

    python benchmarks/autoregressive.py [--rounds 3] [--length 784] [--steps 100] [--table FILE]
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
from results_file import table

import pyrogen as pg
from pyrogen.autoregressive import transformer

SYMBOLS, WIDTH, DEPTH, HEADS = 256, 128, 4, 4


def compared(title, variants, rounds):
    """Rows of the variants, which run in turns: seconds, and ratios to the first."""
    times = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name in random.sample(list(variants), len(variants)):
            start = time.process_time()
            variants[name]()
            if number:
                times[name].append(time.process_time() - start)
    first = next(iter(times.values()))
    for name, own in times.items():
        ratio = statistics.median(a / b for a, b in zip(own, first, strict=True))
        print(title, name, f"{statistics.median(own):.3g} s {ratio:.2f}", sep=", ", flush=True)
        yield [title, name, f"{statistics.median(own):.3g}", f"{ratio:.2f}"]


def ours(length):
    return transformer((length,), symbols=SYMBOLS, width=WIDTH, depth=DEPTH, heads=HEADS).eval()


def x_transformers(length):
    from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper

    layers = Decoder(dim=WIDTH, depth=DEPTH, heads=HEADS, attn_dim_head=WIDTH // HEADS, rotary_pos_emb=True)
    model = AutoregressiveWrapper(TransformerWrapper(num_tokens=SYMBOLS, max_seq_len=length, attn_layers=layers)).eval()

    def draw(rows):
        return model.generate(torch.zeros(rows, 1, dtype=torch.long), length - 1, cache_kv=True)

    return draw


def hugging_face(length, kind):
    import transformers
    from transformers.utils import import_utils

    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):  # one that does not fit torch must not keep language models from loading
        transformers.utils.is_torchvision_available = import_utils.is_torchvision_available = lambda: False
    places = {"vocab_size": SYMBOLS, "bos_token_id": 0, "eos_token_id": None, "pad_token_id": 0}
    if kind == "GPT-2":
        sizes = {"n_positions": length, "n_embd": WIDTH, "n_layer": DEPTH, "n_head": HEADS}
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **places))
    else:
        sizes = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS}
        sizes |= {"intermediate_size": 8 * WIDTH // 3, "max_position_embeddings": length}
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **places))
    model.eval()

    def draw(rows):
        first = torch.zeros(rows, 1, dtype=torch.long)
        seen = torch.ones_like(first)
        return model.generate(first, attention_mask=seen, do_sample=True, top_k=0, max_new_tokens=length - 1)

    return draw


def generation(length, rounds):
    """Whole draws beside other libraries', and the end of a sequence whose beginning is given."""
    model = ours(length)
    libraries = {
        f"x-transformers {version('x-transformers')}, cached": x_transformers(length),
        f"Hugging Face {version('transformers')} `generate`, GPT-2": hugging_face(length, "GPT-2"),
        f"Hugging Face {version('transformers')} `generate`, Llama": hugging_face(length, "Llama"),
    }
    for rows in (1, 16):
        variants = {"`transformer`, `model().sample`": partial(model().sample, (rows,))}
        variants |= {name: partial(draw, rows) for name, draw in libraries.items()}
        yield from compared(f"{length} symbols, batch {rows}", variants, rounds if rows == 1 else 1)
    prompt = torch.randint(SYMBOLS, (1, length - 16))
    variants = {
        "all, batch 1": lambda: model().sample((1,)),
        "the last 16 after a prompt": lambda: model().complete(prompt).sample(),
    }
    yield from compared(f"{length} symbols", variants, rounds)


def training(rounds, steps, length=64, batch=16):
    """Steps of ``fit`` beside a loop by hand around the same network."""
    data = torch.randint(SYMBOLS, (20 * batch, length))
    fused = partial(torch.optim.Adam, lr=1e-3, fused=True)
    fitted, network = ours(length).train(), ours(length).network.train()
    optimizer = fused(network.parameters())

    def by_hand():
        for step in range(steps):
            if step % (len(data) // batch) == 0:
                order = torch.randperm(len(data)).split(batch)
            x = data[order[step % len(order)]]
            loss = F.cross_entropy(network(x).flatten(0, 1), x.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()

    variants = {
        "by hand, fused Adam": by_hand,
        "`fit`, fused Adam": lambda: pg.fit(fitted, data, steps=steps, batch_size=batch, optimizer=fused),
    }
    return compared(f"{steps} training steps, {length} symbols, batch {batch}", variants, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--length", type=int, default=784)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--table", type=Path, help="a file for the table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = [*training(arguments.rounds, arguments.steps), *generation(arguments.length, arguments.rounds)]
    table(["", "variant", "seconds", "ratio"], rows, arguments.table)


if __name__ == "__main__":
    main()
