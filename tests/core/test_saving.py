"""Saving and loading: what comes back, and what a file that is not right is told."""

import copy
import json
import os
import random
import stat
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from safetensors.torch import save_file
from small_programs import Gaussian, encoder, same, weights
from torch import nn

import pyrogen as pg
from pyrogen.core import archive, known_recipes
from pyrogen.core.known_recipes import known_recipe
from pyrogen.core.limits import Allowance
from pyrogen.core.recipe import describe, recipe
from pyrogen.core.structure import structure_of


@recipe
def stack(inputs, *, hidden=(4, 4), options=None, dropout=0.0):
    """A recipe of these tests'."""
    sizes = [inputs, *hidden]
    module = nn.Sequential(*(nn.Linear(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True)), nn.Dropout(dropout))
    module.options = options
    return module


@recipe
def double(first, second, *, tie=False):
    """A recipe of recipes."""
    module = nn.ModuleList([first, second])
    if tie:
        second.weight = first.weight
    return module


@recipe
def linear(size):
    """The smallest recipe."""
    return nn.Linear(size, size)


@recipe
def pile(*sizes, bias=True, **options):
    """A recipe with as many arguments as one likes."""
    module = nn.ModuleList(nn.Linear(size, options.get("outputs", 1), bias=bias) for size in sizes)
    module.options = options
    return module


@recipe
def placed(size, /, outputs, *, bias=True):
    """A recipe whose first argument has no name."""
    return nn.Linear(size, outputs, bias=bias)


pytestmark = pytest.mark.filterwarnings("ignore:.*loads with `into=` alone")  # held by a test of its own
RECIPES = [stack, double, linear, pile, placed]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.fixture
def flow():
    flow = pg.flows.spline_coupling((3,), (2,), layers=2, hidden=(8,))
    with torch.no_grad():
        flow(torch.randn(20, 2)).log_prob(torch.randn(20, 3) * 3)  # sets the standardization
        for parameter in flow.parameters():
            parameter.normal_(std=0.3)
    return flow


# What comes back ----------------------------------------------------------------------------------------------------


def test_a_recipe_comes_back_equal(flow, path):
    pg.save(flow.eval(), path)
    loaded = pg.load(path)
    x, context = torch.randn(50, 3), torch.randn(50, 2)
    assert loaded is not flow
    assert torch.equal(loaded(context).log_prob(x), flow(context).log_prob(x))
    assert loaded.recipe == flow.recipe


def test_a_new_process_gives_the_same_numbers(flow, path):
    pg.save(flow.eval(), path)
    code = f"""
import torch, pyrogen as pg
torch.set_num_threads(1)
x = torch.linspace(-3, 3, 30).reshape(10, 3)
print(pg.load({str(path)!r})(torch.ones(2)).log_prob(x).tolist())
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    x = torch.linspace(-3, 3, 30).reshape(10, 3)
    assert json.loads(out) == flow(torch.ones(2)).log_prob(x).tolist()


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_comes_back(training, path):
    pg.save(linear(2).train(training), path)
    assert pg.load(path, recipes=RECIPES).training is training


def test_double_precision_comes_back(flow, path):
    pg.save(flow.double(), path)
    loaded = pg.load(path)
    assert all(p.dtype == torch.float64 for p in loaded.parameters())
    assert same(weights(loaded), weights(flow))
    assert all(b.dtype == torch.float64 for b in loaded.buffers() if b.is_floating_point())  # stored or not
    assert loaded(torch.zeros(2, dtype=torch.float64)).sample().dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.complex64])
def test_every_dtype_and_shape_comes_back(dtype, path):
    def make():
        module = nn.Module()
        for name, shape in (("scalar", ()), ("empty", (0, 3)), ("matrix", (2, 3))):
            module.register_buffer(name, torch.ones(shape, dtype=dtype))
        module.register_buffer("transposed", torch.arange(6).reshape(2, 3).to(dtype).T)
        return module

    module = make()
    module.matrix.zero_()
    pg.save(module, path)
    assert same(weights(pg.load(path, into=make())), weights(module))


def test_arguments_of_all_kinds_come_back(path):
    options = {"list": [1, 2.5, None], "tuple": (True, "text"), "nested": {"inf": float("inf")}}
    module = stack(3, hidden=[2, 2], options=options)
    pg.save(module, path)
    loaded = pg.load(path, recipes=RECIPES)
    assert loaded.options == options
    assert isinstance(loaded.options["tuple"], tuple)
    assert loaded.recipe.arguments == module.recipe.arguments


def test_numbers_of_numpy_and_sizes_of_tensors_come_back(path):
    x, label = torch.zeros(7, 3), np.array([0, 4, 2])
    flow = pg.flows.affine_coupling(
        x.shape[1:], classes=label.max() + 1, hidden=(np.int32(4),), layers=np.int64(1), dropout=np.float64(0.5)
    )
    pg.save(flow, path)
    loaded = pg.load(path)
    assert same(weights(loaded), weights(flow))
    assert loaded.recipe == flow.recipe
    assert type(flow.event_shape[0]) is int


def test_recipes_nest(path):
    module = double(stack(2), double(linear(3), linear(4)))
    pg.save(module, path)
    assert same(weights(pg.load(path, recipes=RECIPES)), weights(module))


def test_tied_weights_are_stored_once_and_stay_tied(path):
    module = double(linear(300), linear(300), tie=True)
    pg.save(module, path)
    assert path.stat().st_size < 1.2 * 4 * 300 * 300
    loaded = pg.load(path, recipes=RECIPES)
    assert loaded[0].weight is loaded[1].weight
    assert same(weights(loaded), weights(module))


def test_a_module_put_together_by_hand_loads_into_another(path):
    module = Gaussian()
    module.loc.data.fill_(3.0)
    pg.save(module, path)
    with pytest.raises(ValueError, match="names no recipe: its Gaussian was put together by hand.*`into="):
        pg.load(path)
    into = Gaussian()
    assert pg.load(path, into=into) is into
    assert same(weights(into), weights(module))


def test_copies_keep_their_recipe(flow, path):
    pg.save(copy.deepcopy(flow), path)
    assert same(weights(pg.load(path)), weights(flow))


def test_a_trained_module_keeps_its_recipe(flow, path):
    pg.fit(flow, (torch.randn(20, 3), torch.randn(20, 2)), steps=3, ema=0.9, validation=0.3)
    pg.save(flow, path)
    assert same(weights(pg.load(path)), weights(flow))


@pytest.mark.parametrize(
    "make",
    [
        lambda: pile(2, 3),
        lambda: pile(),
        lambda: pile(2, 3, bias=False, outputs=4, sizes=2, name="pile"),
        lambda: pile(4, options={"options": 1}),
        lambda: placed(2, 3),
    ],
)
def test_arguments_without_a_name_and_options_come_back(make, path):
    module = make()
    pg.save(module, path)
    loaded = pg.load(path, recipes=RECIPES)
    assert same(weights(loaded), weights(module))
    assert structure_of(loaded) == structure_of(module)


def test_what_a_recipe_does_to_its_arguments_stays_out_of_the_file(path):
    @recipe
    def emptying(sizes):
        return nn.Linear(sizes.pop(), sizes.pop())

    pg.save(emptying([2, 3]), path)
    assert pg.load(path, recipes=[emptying]).in_features == 3


def test_modes_of_parts_and_frozen_parameters_come_back(path):
    def summary(module):
        return (
            {name: part.training for name, part in module.named_modules()},
            {name: parameter.requires_grad for name, parameter in module.named_parameters()},
        )

    module = pg.latent.vae((2,), latent_shape=(2,), hidden=(8,))
    module.likelihood.requires_grad_(False).eval()
    pg.save(module, path)
    assert summary(pg.load(path)) == summary(module)
    into = pg.latent.vae((2,), latent_shape=(2,), hidden=(8,))
    assert summary(pg.load(path, into=into)) == summary(module)


def test_loading_leaves_the_generators_alone(path):
    pg.save(pg.flows.affine_coupling((2,), hidden=(4,)), path)
    state = torch.get_rng_state()
    pg.load(path)
    assert torch.equal(torch.get_rng_state(), state)


def test_files_of_before_load(path):
    """Those without structure, modes of parts and frozen parameters."""
    module = linear(2).eval()
    document = {"recipe": describe(module), "type": "Linear", "ties": {}, "training": False}
    archive.write(path, "module", document, dict(module.state_dict()))
    loaded = pg.load(path, recipes=RECIPES)
    assert same(weights(loaded), weights(module))
    assert not loaded.training
    archive.write(path, "module", {**document, "recipe": None}, dict(module.state_dict()))
    refused(path, "names no recipe: its Linear was put together by hand or edited")


# Modules edited after their recipe ----------------------------------------------------------------------------------


def swap_layer(module):
    module[0] = nn.Linear(2, 4)


def swap_kind(module):
    module[2] = nn.AlphaDropout(0.0)


def change_setting(module):
    module[2].p = 0.5


def change_option(module):
    module.options = {"other": 1}


def add_part(module):
    module.append(nn.Identity())


@pytest.mark.parametrize("edit", [swap_kind, change_setting, change_option, add_part])
def test_an_edit_after_the_recipe_is_noticed(edit, path):
    module = stack(2, hidden=(4, 4))
    edit(module)
    assert describe(module) is None
    pg.save(module, path)
    with pytest.raises(ValueError, match="names no recipe: its Sequential was edited after its recipe: `"):
        pg.load(path, recipes=RECIPES)
    into = stack(2, hidden=(4, 4))
    edit(into)
    assert same(weights(pg.load(path, into=into)), weights(module))


def _sampler(module):
    module.sampler = copy.deepcopy(module.sampler)  # the default one is shared
    module.sampler.grid.steps = 3


def _dataclass_field(module):
    module.denoiser.parameterisation = pg.diffusion.Preconditioned(data_scale=5.0)


def _closure(module):
    module.denoiser.forward = (lambda scale: lambda *inputs: scale)(2.0)


def _hook(module):
    module.register_forward_hook(lambda *_: None)


def _unstored_buffer(module):
    buffer = next(b for name, b in module.named_buffers() if name not in module.state_dict())
    module.register_buffer("mask", torch.arange(len(buffer)), persistent=False)


def _unstored_values(module):
    module.table = torch.ones(3)


@pytest.mark.parametrize(
    "edit", [_sampler, _dataclass_field, _closure, _hook, _unstored_buffer, _unstored_values], ids=lambda e: e.__name__
)
def test_an_edit_of_what_an_attribute_holds_is_noticed(edit, path):
    module = pg.diffusion.mlp((2,), width=8, depth=1)
    edit(module)
    pg.save(module, path)
    refused(path, "names no recipe: its Diffusion was edited after its recipe: `.*build the module .*`into=`")


def test_an_edit_says_what_differs(path):
    module = pg.diffusion.mlp((2,), width=8, depth=1)
    _sampler(module)
    pg.save(module, path)
    refused(path, "`sampler.grid.steps` is 3, not 20")


def test_use_is_no_edit(path):
    module = pg.diffusion.mlp((2,), width=8, depth=1)
    pg.fit(module, torch.randn(40, 2), steps=2)
    module().sample((3,))
    pg.save(copy.deepcopy(module).double(), path)
    assert pg.load(path).recipe == module.recipe


def test_a_recipe_that_builds_something_else_by_now_is_noticed(path):
    def version(build):
        build.__qualname__ = "same_name"
        return recipe(build)

    def chain(*layers, scale=1.0):
        module = nn.Sequential(*layers)
        module.scale = scale
        return module

    first = version(lambda size: chain(nn.Linear(size, size), nn.ReLU()))
    pg.save(first(2), path)
    assert pg.load(path, recipes=[first])
    for other, what in (
        (lambda size: chain(nn.Linear(size, size), nn.Tanh()), "`1` is torch.Tanh, not torch.ReLU"),
        (lambda size: chain(nn.Linear(size, size), nn.ReLU(), scale=2.0), "`scale` is 2.0, not 1.0"),
    ):
        refused(path, f"recipe that now builds something else: {what}.*`into=`", recipes=[version(other)])
        pg.load(path, into=version(other)(2))


def test_a_recipe_that_draws_its_structure_is_noticed(path):
    @recipe
    def drawn(size):
        module = nn.Linear(size, size)
        module.order = torch.randperm(size).tolist()
        return module

    pg.save(drawn(50), path)
    refused(path, "`order.*now builds something else|now builds something else: `order", recipes=[drawn])


def test_arguments_that_share_parts_load_into(path):
    part = linear(2)
    module = double(part, part)
    pg.save(module, path)
    refused(path, "`second` holds a Linear that shares parts with another argument", recipes=RECIPES)
    part = linear(2)
    assert same(weights(pg.load(path, into=double(part, part))), weights(module))


def test_a_layer_of_the_same_shape_in_place_of_another_is_no_edit(path):
    module = stack(2)
    swap_layer(module)
    pg.save(module, path)
    assert same(weights(pg.load(path, recipes=RECIPES)), weights(module))


def test_another_family_is_an_edit():
    module = encoder()
    before = structure_of(module)
    module.family = pg.families.laplace
    assert structure_of(module) != before
    module.family = pg.families.normal(1.0)
    fixed = structure_of(module)
    module.family = pg.families.normal(2.0)
    assert structure_of(module) != fixed


def test_the_structure_is_the_same_in_every_process(flow):
    code = """
import pyrogen as pg
import json
print(json.dumps(pg.flows.spline_coupling((3,), (2,), layers=2, hidden=(8,)).recipe.structure))
"""
    seeds = ({**os.environ, "PYTHONHASHSEED": seed} for seed in ("1", "2"))
    runs = [subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True) for env in seeds]
    assert [json.loads(run.stdout) for run in runs] == [flow.recipe.structure] * 2


def test_an_argument_without_a_place_in_a_file_loads_into(path):
    module = double(nn.Linear(2, 2), linear(2))
    assert module.recipe.arguments is None
    pg.save(module, path)
    with pytest.raises(ValueError, match="names no recipe"):
        pg.load(path, recipes=RECIPES)
    assert same(weights(pg.load(path, into=double(linear(2), linear(2)))), weights(module))


def test_an_attribute_named_recipe_is_no_recipe(path):
    module = Gaussian()
    module.recipe = linear
    pg.save(module, path)
    pg.load(path, into=Gaussian())


# Files that are not right -------------------------------------------------------------------------------------------


def refused(path, match, error=ValueError, **arguments):
    with pytest.raises(error, match=match) as caught:
        pg.load(path, **arguments)
    assert path.name in str(caught.value)


def test_missing_files_and_folders_are_named(tmp_path, path):
    refused(path, "there is no file", FileNotFoundError)
    refused(tmp_path, "there is no file .*, but a folder", FileNotFoundError)
    with pytest.raises(FileNotFoundError, match="`path` must be in a folder that exists, got .*missing"):
        pg.save(linear(2), tmp_path / "missing" / "model")


def test_an_empty_file_is_named(path):
    path.touch()
    refused(path, "is empty")


def test_truncated_anywhere_is_named(path):
    pg.save(linear(2), path)
    content = path.read_bytes()
    offsets = {*range(1, 64), *range(64, len(content), 13), len(content) - 1}
    for offset in sorted(offsets):
        path.write_bytes(content[:offset])
        refused(path, "truncated or not a pyrogen file", recipes=RECIPES)
    path.write_bytes(content + b"\0")
    refused(path, "truncated or not a pyrogen file", recipes=RECIPES)


@pytest.mark.parametrize("change", [lambda byte: byte ^ 1, lambda byte: byte ^ 0x80, lambda byte: 0, lambda byte: 0x22])
def test_altered_anywhere_is_named_or_harmless(change, path):
    module = linear(2)
    pg.save(module, path)
    content = bytearray(path.read_bytes())
    harmless = 0
    for offset in range(len(content)):
        altered = bytearray(content)
        altered[offset] = change(altered[offset])
        if altered == content:
            continue
        path.write_bytes(altered)
        try:
            loaded = pg.load(path, recipes=RECIPES)
        except ValueError as error:
            assert path.name in str(error)  # noqa: PT017
        else:
            assert same(weights(loaded), weights(module))
            harmless += 1
    assert harmless < 0.05 * len(content)


def test_altered_tensors_are_named(path):
    pg.save(linear(30), path)
    content = bytearray(path.read_bytes())
    for offset in random.Random(0).sample(range(len(content) - 3600, len(content)), 30):
        altered = bytearray(content)
        altered[offset] ^= 4
        path.write_bytes(altered)
        refused(path, "was altered", recipes=RECIPES)


def test_foreign_files_are_named(path):
    path.write_bytes(random.Random(0).randbytes(2000))
    refused(path, "truncated or not a pyrogen file")
    path.write_text("once upon a time there was a model" * 10)
    refused(path, "truncated or not a pyrogen file")
    torch.save({"weight": torch.zeros(2)}, path)
    refused(path, "truncated or not a pyrogen file")
    save_file({"weight": torch.zeros(2)}, path)
    refused(path, "is a safetensors file, but not one of pyrogen's")
    save_file({"weight": torch.zeros(2)}, path, {"format": "pt"})
    refused(path, "is a safetensors file, but not one of pyrogen's")


def test_another_version_or_kind_is_named(path, monkeypatch):
    monkeypatch.setattr(archive, "VERSION", 2)
    pg.save(linear(2), path)
    monkeypatch.undo()
    refused(path, "has format version 2, this pyrogen reads version 1")
    archive.write(path, "training run", {}, {})
    refused(path, "holds a training run, expected a module")
    pg.save(linear(2), path)
    with pytest.raises(ValueError, match="holds a module, expected a training run"):
        pg.fit(Gaussian(), torch.zeros(3, 2), steps=1, checkpoint=path)


def test_other_shapes_and_names_are_named(path):
    pg.save(linear(2), path)
    refused(path, r"'weight' must have shape \(3, 3\), got \(2, 2\)", into=nn.Linear(3, 3))
    refused(path, r"lacks \['bias'\], has besides nothing", into=nn.Linear(2, 2, bias=False))
    refused(path, r"lacks \['bias', 'weight'\], has besides \['0.bias', '0.weight'\]", into=stack(2, hidden=(2,)))
    pg.save(nn.Linear(2, 2, bias=False), path)
    refused(path, r"lacks nothing, has besides \['bias'\]", into=nn.Linear(2, 2))
    pg.save(double(linear(2), linear(2), tie=True), path)
    refused(path, r"has besides \['1.weight'\]", into=double(linear(2), linear(2)))


def test_a_module_that_does_not_fit_is_left_as_it_was(path):
    pg.save(linear(2), path)
    into = nn.Sequential(nn.Linear(2, 2))
    before = weights(into)
    refused(path, "does not fit", into=into)
    assert same(weights(into), before)


def test_other_kinds_of_numbers_are_named(path):
    pg.save(linear(2).double(), path)
    assert pg.load(path, into=nn.Linear(2, 2)).weight.dtype == torch.float64
    whole = nn.Module()
    whole.register_buffer("count", torch.zeros(2, dtype=torch.int64))
    pg.save(whole, path)
    into = nn.Module()
    into.register_buffer("count", torch.zeros(2))
    refused(path, "'count' must hold torch.float32 or another precision of it, got torch.int64", into=into)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda path: pg.save({"a": 1}, path), TypeError, "`module` must be an nn.Module, got dict"),
        (lambda path: pg.save(linear(2), 3), TypeError, "`path` must be a path, got int"),
        (lambda path: pg.save(linear(2), ""), ValueError, "`path` must name a file, got ''"),
        (lambda path: pg.save(linear(2), path.parent), IsADirectoryError, "`path` must be a file, got the folder"),
        (lambda path: pg.save(nn.LazyLinear(2), path), ValueError, "`module` cannot be saved.*before the first call"),
        (lambda path: pg.save(Extra(), path), ValueError, "`module` cannot be saved.*'_extra_state' is no tensor"),
        (lambda path: pg.load(path, into=3), TypeError, "`into` must be an nn.Module, got int"),
        (lambda path: pg.load(path, recipes=[3]), TypeError, "`recipes` must be a sequence of functions"),
        (lambda path: pg.load(path, recipes=linear), TypeError, "`recipes` must be a sequence of functions"),
        (lambda path: pg.load(path, device="gpu"), ValueError, "`device` must be a torch device, got 'gpu'"),
        (lambda path: pg.load(None), TypeError, "`path` must be a path, got NoneType"),
    ],
)
def test_bad_arguments_are_named(call, error, message, path):
    pg.save(nn.Linear(2, 2), path)
    with pytest.raises(error, match=message):
        call(path)


class Extra(nn.Module):
    def get_extra_state(self):
        return "extra"


# Files that ask for much ---------------------------------------------------------------------------------------------


def forged(path, name, **arguments):
    recipe = {"name": name, "arguments": {"event_shape": {"tuple": [2]}, **arguments}}
    archive.write(path, "module", {"recipe": recipe, "type": "", "ties": {}, "training": True}, {})


FLOW = "pyrogen.flows.recipes.affine_coupling"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        (FLOW, {"hidden": {"tuple": [10**6, 10**6]}}),
        (FLOW, {"hidden": {"tuple": [17000, 17000]}, "layers": 1}),
        (FLOW, {"layers": 10**9}),
        (FLOW, {"event_shape": {"tuple": [10**9]}}),
        (FLOW, {"event_shape": {"tuple": [10**6, 10**6]}}),
        (FLOW, {"event_shape": {"tuple": [2**22]}}),
        (FLOW, {"context_shape": {"dict": {"a": {"tuple": [10**9]}}}}),
        (FLOW, {"base": {"recipe": {"name": FLOW, "arguments": {"event_shape": {"tuple": [10**9]}}}}}),
        (FLOW, {"classes": 10**12}),
        ("pyrogen.flows.recipes.spline_autoregressive", {"event_shape": {"tuple": [10**5]}}),
        ("pyrogen.autoregressive.recipes.transformer", {"symbols": 10**12}),
        ("pyrogen.diffusion.recipes.mlp", {"width": 10**6}),
        ("pyrogen.latent.recipes.vae", {"latent_shape": {"tuple": [10**12]}}),
    ],
)
def test_a_file_that_asks_for_far_more_than_it_holds_is_refused(name, arguments, path):
    forged(path, name, **arguments)
    began = time.process_time()
    refused(path, "needs far more memory or time than its tensors")
    assert time.process_time() - began < 10


@pytest.mark.parametrize("hidden", [{"tuple": [-1]}, {"tuple": ["8"]}, 3, None, {"dict": {}}])
def test_arguments_that_the_recipe_refuses_are_named(hidden, path):
    forged(path, FLOW, hidden=hidden)
    refused(path, "names recipe .*affine_coupling', which refuses the arguments")


@pytest.mark.parametrize("text", ["[" * 100_000 + "]" * 100_000, "[", "", "nothing", '{"recipe": NaN'])
def test_a_document_that_is_none_is_named(text, path, monkeypatch):
    monkeypatch.setattr(json, "dumps", lambda document: text)
    archive.write(path, "module", {}, {})
    refused(path, "holds a document that makes no sense")


def test_deeply_nested_recipes_are_named(path):
    description = {"name": FLOW, "arguments": {}}
    for _ in range(300):
        description = {"name": FLOW, "arguments": {"base": {"recipe": description}}}
    archive.write(path, "module", {"recipe": description, "type": "", "ties": {}, "training": True}, {})
    refused(path, "names recipe|makes no sense")


def test_the_allowance_sees_what_is_made_before_it_is_made():
    makers = [
        lambda: torch.zeros(10**6, 10**6),
        lambda: torch.arange(1e12),
        lambda: torch.eye(10**6),
        lambda: torch.ones(10**6)[:, None] >= torch.ones(10**6),
        lambda: torch.randperm(10**12, generator=torch.Generator()),
        lambda: torch.ones(1).repeat(10**12),
        lambda: nn.Linear(10**6, 10**6),
        lambda: [torch.zeros(2) for _ in range(10**9)],
    ]
    for make in makers:
        with pytest.raises(ValueError, match="needs far more"), Allowance(10**9, 1000):
            make()
    with Allowance(10**9, 1000):
        made = nn.Linear(100, 100)
    assert made.weight.std() > 0


# No file runs code --------------------------------------------------------------------------------------------------

EVIL = [
    "os.system",
    "subprocess.run",
    "builtins.eval",
    "torch.load",
    "pyrogen.core.saving.save",
    "pyrogen.core.archive.os.system",
    "pyrogen.core.archive.write",
    "pyrogen..os.system",
    "pyrogen.os.system",
    "pyrogen.",
    "pyrogenic.core.evil",
    "pyrogen.missing.room",
    "pyrogen.core.recipe.recipe",
    "..os.system",
    "",
    "antigravity.fly",
]


@pytest.mark.parametrize("name", EVIL)
def test_a_free_name_is_refused_and_nothing_foreign_is_imported(name, path):
    document = {
        "recipe": {"name": name, "arguments": {"command": "echo broken"}},
        "type": "Linear",
        "ties": {},
        "training": True,
    }
    archive.write(path, "module", document, {"weight": torch.zeros(2)})
    before = set(sys.modules)
    refused(path, "which is not a recipe of pyrogen's; pass the function to")
    assert all(module.startswith("pyrogen") for module in set(sys.modules) - before)


@pytest.mark.parametrize("name", ["pyrogen.analysis.style.evil", "pyrogen.flows.recipes.Design", "pyrogen.flows.flow"])
def test_no_name_reaches_the_import_system(name, path, monkeypatch):
    archive.write(path, "module", {"recipe": {"name": name, "arguments": {}}, "type": "", "ties": {}}, {})
    seen = []
    monkeypatch.setattr("builtins.__import__", lambda *args, **_: seen.append(args[0]) or _import(*args, **_))
    refused(path, "which is not a recipe of pyrogen's")
    assert not [module for module in seen if "evil" in module or module.startswith("pyrogen.")]


_import = __import__


def test_the_table_holds_every_recipe_of_pyrogens():
    assert all(hasattr(pg, name) for name in pg.__all__)  # imports its packages
    modules = [module for name, module in sys.modules.items() if name.startswith("pyrogen.")]
    found = {value for module in modules for value in vars(module).values() if getattr(value, "is_recipe", False)}
    found = {value for value in found if value.__module__.startswith("pyrogen.")}
    assert len(found) > 30
    assert all(known_recipe(f"{value.__module__}.{value.__qualname__}") is value for value in found)
    assert sum(map(len, known_recipes.RECIPES.values())) == len(found)


def test_a_free_name_in_a_nested_recipe_is_refused(path):
    evil = {"name": "os.system", "arguments": {"command": "echo broken"}}
    name = f"{linear.__module__}.linear"
    document = {"recipe": {"name": name, "arguments": {"size": {"recipe": evil}}}, "type": "", "ties": {}}
    archive.write(path, "module", {**document, "training": True}, {})
    refused(path, "names 'os.system', which is not a recipe", recipes=RECIPES)


def test_save_warns_where_a_recipe_cannot_rebuild(path):
    own = nn.Sequential(nn.Linear(1, 4))
    base = pg.Parametric(own, pg.families.diagonal_normal, event_shape=(2,), context_shape=(1,))
    flow = pg.flows.affine_coupling((2,), (1,), base=base)
    with pytest.warns(
        UserWarning, match="loads with `into=` alone: .* `base` holds a Parametric that was put together"
    ):
        pg.save(flow, path)
    assert pg.load(path, into=flow) is flow
    joint = pg.simulation.Joint(_program, observed="x")
    with pytest.warns(UserWarning, match="the Posterior was built .* what a file cannot hold: `joint` holds a Joint"):
        pg.save(pg.simulation.posterior(joint), path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pg.save(nn.Linear(2, 2), path)  # by hand: whoever put it together has the code
        pg.save(linear(2), path)


def _program(x=None):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@pytest.mark.parametrize(
    "base",
    [pg.flows.StudentT((2,), degrees=3.0), pg.flows.GaussianMixture((2,), components=3)],
    ids=lambda b: type(b).__name__,
)
def test_a_flow_with_a_base_of_its_own_loads_by_itself(base, path):
    flow = pg.flows.affine_coupling((2,), layers=2, base=base)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pg.save(flow, path)
    loaded, x = pg.load(path), torch.randn(5, 2)
    assert torch.equal(loaded().log_prob(x), flow().log_prob(x))
    assert loaded.base.recipe == base.recipe


def test_a_class_can_be_a_recipe_and_its_heirs_are_none(path):
    @recipe
    class Scaled(nn.Linear):
        def __init__(self, size, *, by=2.0):
            super().__init__(size, size)
            self.by = by

    class Heir(Scaled):
        pass

    assert Scaled(2).recipe.arguments == {"size": 2, "by": 2.0}
    assert "recipe" not in vars(Heir(2))
    module = Scaled(3, by=np.float64(5.0))
    pg.save(module, path)
    assert pg.load(path, recipes=[Scaled]).by == 5.0
    with pytest.raises(TypeError, match="size"):
        Scaled()


def test_a_recipe_of_ones_own_must_be_handed_over(path):
    pg.save(linear(2), path)
    refused(path, "linear', which is not a recipe of pyrogen's; pass the function to `load")
    pg.load(path, recipes=[linear])


def test_arguments_the_recipe_no_longer_takes_are_named(path):
    name = f"{linear.__module__}.linear"
    for arguments in ({"sizes": 3}, {}, {"size": 2, "more": 1}):
        document = {"recipe": {"name": name, "arguments": arguments}, "type": "", "ties": {}, "training": True}
        archive.write(path, "module", document, {})
        refused(path, "does not take the arguments", recipes=RECIPES)


@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        None,
        {"recipe": 3, "type": "", "ties": {}, "training": True},
        {"recipe": {"name": 3, "arguments": {}}, "type": "", "ties": {}, "training": True},
        {"recipe": {"name": "a.b"}, "type": "", "ties": {}, "training": True},
        {"recipe": {"name": "a.b", "arguments": [1]}, "type": "", "ties": {}, "training": True},
        {"recipe": {"name": "a.b", "arguments": {"x": {}}}, "type": "", "ties": {}, "training": True},
    ],
)
def test_a_document_made_up_by_somebody_is_named(document, path):
    archive.write(path, "module", document, {})
    refused(path, "makes no sense|is not a recipe")


# Writing ------------------------------------------------------------------------------------------------------------


def test_writing_leaves_one_file_readable_as_the_user_wishes(path):
    mask = os.umask(0o027)
    try:
        pg.save(linear(2), path)
    finally:
        os.umask(mask)
    assert os.listdir(path.parent) == [path.name]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_failure_leaves_the_old_file_and_no_other(path, monkeypatch):
    pg.save(linear(2), path)
    content = path.read_bytes()

    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="the disk is full"):
        pg.save(linear(3), path)
    assert path.read_bytes() == content
    assert os.listdir(path.parent) == [path.name]


def test_a_link_stays_a_link(path):
    target = path.with_name("target")
    pg.save(linear(2), target)
    path.symlink_to(target)
    pg.save(linear(3), path)
    assert path.is_symlink()
    assert pg.load(target, recipes=RECIPES).in_features == 3


def test_a_reader_always_sees_a_whole_file(path):
    modules = [linear(40), linear(60)]
    pg.save(modules[0], path)
    done = threading.Event()

    def write():
        for turn in range(60):
            pg.save(modules[turn % 2], path)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    reads = 0
    while not done.is_set() or not reads:
        size = pg.load(path, recipes=RECIPES).in_features
        assert size in (40, 60)
        reads += 1
    writer.join()


def lazy(outputs=4):
    network = nn.Sequential(nn.LazyLinear(16), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(outputs))
    return pg.Parametric(network, pg.families.diagonal_normal, event_shape=2, context_shape=5)


def test_lazy_layers_load_into_fresh_ones(tmp_path):
    x, context = torch.randn(30, 2), torch.randn(30, 5)
    module = lazy()
    pg.fit(module, (x, context), steps=3, seed=0)
    pg.save(module, tmp_path / "lazy")
    again = pg.load(tmp_path / "lazy", into=lazy())
    assert torch.equal(again(context).log_prob(x), module(context).log_prob(x))
    assert same(weights(again), weights(module))
    pg.fit(again, (x, context), steps=2, seed=0)


def test_a_file_that_does_not_fit_leaves_lazy_layers_as_they_were(tmp_path):
    module = lazy()
    module(torch.randn(3, 5))
    pg.save(module, tmp_path / "lazy")
    other = lazy()
    other.extra = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="does not fit the module"):
        pg.load(tmp_path / "lazy", into=other)
    assert nn.parameter.is_lazy(other.network[0].weight)


def test_a_guide_not_yet_called_says_so(tmp_path):
    from pyro.infer.autoguide import AutoNormal

    def model():
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    guide = AutoNormal(model)
    guide()
    pg.save(guide, tmp_path / "guide")
    with pytest.raises(ValueError, match="must be called once before"):
        pg.load(tmp_path / "guide", into=AutoNormal(model))
    again = AutoNormal(model)
    again()
    pg.load(tmp_path / "guide", into=again)


def test_intervals_of_files_without_a_margin_keep_the_one_they_had(tmp_path):
    flow = pg.flows.affine_coupling((2,), layers=1, hidden=(4,), interval=(0.0, 1.0), margin=0.05)
    pg.save(flow, tmp_path / "flow")
    document, tensors = archive.read(tmp_path / "flow", "module")
    del document["recipe"]["arguments"]["margin"], document["structure"]  # as they were written then
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith("ends")}
    archive.write(tmp_path / "flow", "module", document, tensors)
    x = torch.tensor([[-0.01, 1.01]])
    assert torch.equal(pg.load(tmp_path / "flow")().log_prob(x), flow().log_prob(x))


def test_files_of_an_earlier_edition_load_by_their_tensors(tmp_path, monkeypatch):
    """Classes have had other names since, and tensors too."""
    flow = pg.flows.affine_coupling((2,), layers=1, hidden=(4,))
    pg.save(flow, tmp_path / "flow")
    document, tensors = archive.read(tmp_path / "flow", "module")
    del document["edition"]
    document["structure"]["bijections.0"] = "pyrogen.AffineLayer"
    old = {name.replace("bijections", "layers"): tensor for name, tensor in tensors.items()}
    archive.write(tmp_path / "flow", "module", document, old)
    with pytest.raises(ValueError, match="does not fit the module"):
        pg.load(tmp_path / "flow")
    monkeypatch.setattr(known_recipes, "_TENSORS", ((r"layers\.", "bijections."),))
    loaded = pg.load(tmp_path / "flow")
    assert all(torch.equal(value, tensors[name]) for name, value in loaded.state_dict().items())


def test_levels_of_before_are_symbols_or_binary_today():
    with pytest.warns(DeprecationWarning, match="`levels` of `categorical_vae` is now `symbols`"):
        three = pg.latent.categorical_vae((4,), latent_shape=(2,), levels=3)
    assert three.recipe.arguments == pg.latent.categorical_vae((4,), latent_shape=(2,), symbols=3).recipe.arguments
    with pytest.warns(DeprecationWarning, match="`levels` of `vamp_vae` is now `binary`"):
        binary = pg.latent.vamp_vae((4,), latent_shape=(2,), levels=2)
    assert binary.recipe.arguments == pg.latent.vamp_vae((4,), latent_shape=(2,), binary=True).recipe.arguments
    with pytest.raises(TypeError, match="unexpected keyword argument 'levels'"):
        pg.flows.planar((2,), levels=2)
