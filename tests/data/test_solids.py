"""Solids on a table: areas, a tracer of rays, who hides whom, what changes nothing, gradients, bad input."""

from math import cos, pi, radians, sin

import pytest
import torch

from pyrogen.data import solids
from pyrogen.data.solids import Solids, lamp, render

DOWN = radians(35)
ABOVE = torch.tensor([0.0, 0.0, 1.0])


def one(kind, *, colour=(0.8, 0.2, 0.2), right=0.0, away=0.0, size=0.35, turn=0.4):
    numbers = {"right": right, "away": away, "size": size, "turn": turn}
    return Solids(torch.tensor([kind]), torch.tensor([colour]), **{k: torch.tensor([v]) for k, v in numbers.items()})


def both(first, second):
    return Solids(*(torch.cat(pair) for pair in zip(first, second, strict=True)))


@pytest.mark.parametrize("turn", [0.0, 0.4, 1.2])
@pytest.mark.parametrize("kind", [1, 2])
def test_faces_have_their_areas(kind, turn):
    """Under a lamp right above, the top has brightness one and the sides that of light from all around, 0.45.

    Edges are soft: a quarter of a pixel along them may count for another face.
    """
    size, side = 0.35, 64
    white, black = (render(one(kind, colour=(c,) * 3, turn=turn), ABOVE, side=side) for c in (1.0, 0.0))
    area = (white - black)[0].sum().item() * (2.8 / side) ** 2
    top = (4 if kind == 1 else pi) * size**2 * sin(DOWN)
    wide = 2 * size * (cos(turn) + sin(turn)) if kind == 1 else 2 * size
    assert area == pytest.approx(top + 0.45 * wide * 2 * size * cos(DOWN), rel=0.03)


def traced(scene, light, side, samples=6):
    """The picture by brute force: rays from many points of each pixel, each to what it meets first."""
    fine = side * samples
    grid = (torch.arange(fine) + 0.5) * 2.8 / fine - 1.4
    v, u = torch.meshgrid(0.45 - grid, grid, indexing="ij")
    look, up = torch.tensor([0.0, cos(DOWN), -sin(DOWN)]), torch.tensor([0.0, sin(DOWN), cos(DOWN)])
    start = u[..., None] * torch.tensor([1.0, 0, 0]) + v[..., None] * up - 10 * look
    picture = torch.tensor(solids.TABLE).expand(fine, fine, 3)
    ground = start - start[..., 2:] / look[2] * look
    dark = torch.zeros(fine, fine, dtype=torch.bool)
    nearest = torch.full((fine, fine), 1e6)
    for row in range(len(scene.kind)):
        dark |= meets(scene, row, ground, light)[0] < 1e5
    picture = torch.where(dark[..., None], 0.6 * picture, picture)
    for row in range(len(scene.kind)):
        distance, normal = meets(scene, row, start, look)
        bright = 0.45 + 0.55 * (normal @ light).clamp(min=0)
        first = distance < nearest
        picture = torch.where(first[..., None], bright[..., None] * scene.colour[row], picture)
        nearest = torch.where(first, distance, nearest)
    return picture.unflatten(0, (side, samples)).unflatten(2, (side, samples)).mean((1, 3)).movedim(-1, 0)


def meets(scene, row, start, direction):
    """How far a ray goes before it meets a solid (a million if it does not), and the normal there."""
    size, turn = scene.size[row], scene.turn[row]
    middle = torch.stack([scene.right[row], scene.away[row], size])
    turned = torch.tensor([[turn.cos(), turn.sin(), 0], [-turn.sin(), turn.cos(), 0], [0, 0, 1]])
    o, d = (start - middle) @ turned.T, (direction @ turned.T).expand_as(start)
    d = torch.where(d.abs() < 1e-9, 1e-9, d)
    enter, leave = (-size * d.sign() - o) / d, (size * d.sign() - o) / d
    normals = -d.sign()[..., None] * torch.eye(3)
    if scene.kind[row] == 2:
        a, b = d[..., :2].square().sum(-1), (o * d)[..., :2].sum(-1)
        c = o[..., :2].square().sum(-1) - size**2
        root = (b.square() - a * c).clamp(min=0).sqrt()
        missed = b.square() < a * c
        enter = torch.stack([torch.where(missed, 1e6, (-b - root) / a), enter[..., 2]], -1)
        leave = torch.stack([(-b + root) / a, leave[..., 2]], -1)
        point = o + enter[..., :1] * d
        round_ = torch.cat([point[..., :2] / size, torch.zeros_like(point[..., :1])], -1)
        normals = torch.stack([round_, normals[..., 2, :]], -2)
    distance, face = enter.max(-1)
    hit = (distance < leave.min(-1).values) & (distance > 1e-4)
    normal = normals.gather(-2, face[..., None, None].expand(*face.shape, 1, 3)).squeeze(-2) @ turned
    return torch.where(hit, distance, 1e6), normal


@pytest.mark.parametrize("seed", [1, 3, 4])
def test_pictures_are_those_of_traced_rays(seed):
    """But for shadows upon solids, which are not drawn, and the soft edges: 2 % of pixels may differ by these."""
    _, scenes, lights = solids.draw(4, seed=seed, side=8)
    for row in range(4):
        scene = Solids(*(values[row] for values in scenes))
        present = scene.kind > 0
        scene = Solids(*(values[present] for values in scene))
        drawn, found = render(scene, lights[row], side=48), traced(scene, lights[row], 48)
        different = (drawn - found).abs().amax(0)
        assert different.mean() < 0.012
        assert (different > 0.2).double().mean() < 0.02


def test_what_is_nearer_hides_what_is_farther():
    light, blue = lamp(torch.tensor(0.3)), (0.1, 0.1, 0.9)

    def blue_pixels(red_away, blue_away):
        scene = both(one(1, away=red_away, size=0.5), one(2, away=blue_away, size=0.2, colour=blue))
        picture = render(scene, light)
        return int(((picture[2] > 0.3) & (picture[0] < 0.2)).sum())

    alone = int((render(one(2, size=0.2, colour=blue), light)[0] < 0.2).sum())
    assert blue_pixels(-0.5, 0.2) == 0
    assert blue_pixels(0.2, -0.6) > 0.8 * alone > 10


def test_a_solid_behind_one_of_its_own_picture_is_not_seen():
    """Along a line of sight: what is farther away by one stands higher by the tangent of the camera's angle."""
    light = lamp(torch.tensor(0.0))
    near, small = one(1, size=0.5, turn=0.0), one(2, away=0.75, size=0.1, colour=(0.0, 1.0, 0.0))
    picture = render(both(near, small), light, side=32)
    assert torch.allclose(picture, render(near, light, side=32), atol=1e-3)


def test_what_changes_nothing():
    pixels, scene, light = solids.draw(6, seed=2, side=24)
    quarter = scene._replace(turn=scene.turn + pi / 2)
    assert torch.allclose(render(quarter, light, side=24), pixels, atol=1e-4)
    spun = scene._replace(turn=torch.where(scene.kind == 2, scene.turn + 0.3, scene.turn))
    assert torch.allclose(render(spun, light, side=24), pixels, atol=1e-6)
    order = torch.tensor([2, 0, 1])
    assert torch.allclose(render(Solids(*(v[:, order] for v in scene)), light, side=24), pixels, atol=1e-5)
    moved = scene._replace(right=scene.right + 3 * 2.8 / 24)
    assert torch.allclose(render(moved, light, side=24)[..., 3:], pixels[..., :-3], atol=1e-4)
    alone = torch.stack([render(Solids(*(v[row] for v in scene)), light[row], side=24) for row in range(6)])
    assert torch.allclose(alone, pixels, atol=1e-6)


def test_nothing_leaves_the_table_and_its_numbers_do_not_count():
    empty = render(one(0), ABOVE, side=8)
    assert torch.allclose(empty, torch.tensor(solids.TABLE)[:, None, None].expand(3, 8, 8))
    none = Solids(*(values[:0] for values in one(1)))
    assert torch.equal(render(none, ABOVE, side=8), empty)
    scene = both(one(1), one(0, away=-1.0, colour=(1.0, 1.0, 1.0)))
    assert torch.allclose(render(scene, ABOVE), render(one(1), ABOVE), atol=1e-6)


@pytest.mark.parametrize("kind", [1, 2])
def test_one_scene_of_no_size_does_not_hurt_the_others(kind):
    scene = one(kind)._replace(size=torch.tensor([[0.35], [0.0], [float("inf")]]))
    pixels = render(scene, ABOVE, side=8)
    assert torch.allclose(pixels[0], render(one(kind), ABOVE, side=8), atol=1e-6)


def test_shadows_fall_away_from_the_lamp():
    for kind in (1, 2):
        left, right = (render(one(kind, turn=0.0), lamp(torch.tensor(side)))[1] for side in (-0.8, 0.8))
        beside = left[14:20, 21:27].mean(), right[14:20, 21:27].mean()  # to the right of the solid
        assert beside[0] < beside[1] - 0.05


@pytest.mark.parametrize("kinds", [(1, 2), (2, 2), (1, 1)])
def test_gradients_are_those_of_finite_differences(kinds):
    scene = both(one(kinds[0], right=0.11, away=-0.31), one(kinds[1], right=-0.13, away=0.4, turn=0.9))
    numbers = [values.double().requires_grad_() for values in scene[1:]]
    side = torch.tensor(0.37, dtype=torch.float64, requires_grad=True)

    def picture(side, *numbers):
        return render(Solids(scene.kind, *numbers), lamp(side), side=7)

    assert torch.autograd.gradcheck(picture, (side, *numbers), eps=1e-7, atol=1e-5, fast_mode=True)
    gradients = torch.autograd.grad(picture(side, *numbers).square().sum(), (side, *numbers))
    turned = gradients[-1] != 0
    assert turned.tolist() == [kind == 1 for kind in kinds]
    assert all((gradient != 0).all() for gradient in gradients[:-1])


def test_gradients_are_finite_where_distances_are_zero():
    side = torch.tensor(0.0, requires_grad=True)
    numbers = [values.requires_grad_() for values in one(2, away=0.0)[1:]]
    render(Solids(torch.tensor([2]), *numbers), lamp(side), side=5).sum().backward()  # a pixel right on the axis
    assert all(values.grad.isfinite().all() for values in numbers if values.grad is not None)
    above = ABOVE.clone().requires_grad_()
    render(one(1, turn=0.0), above, side=5).sum().backward()
    assert above.grad.isfinite().all()


def test_batches_broadcast():
    scene = one(1)._replace(kind=torch.tensor([[[0]], [[1]], [[2]]]))  # (3, 1, 1)
    pixels = render(scene, lamp(torch.linspace(-1, 1, 4)), side=8)
    assert pixels.shape == (3, 4, 3, 8, 8)
    assert torch.allclose(pixels[2, 1], render(one(2), lamp(torch.tensor(-1 / 3)), side=8), atol=1e-6)


def test_drawn_scenes_have_every_number_and_stand_from_front_to_back():
    pixels, scene, light = solids.draw(400, seed=0, side=8)
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    present = (scene.kind > 0).sum(1)
    assert (present.bincount() > 60).all()
    assert ((scene.kind > 0).long().diff(dim=1) <= 0).all()
    assert (scene.away.diff(dim=1) > 0.69).all()
    assert torch.allclose(light.norm(dim=1), torch.ones(400))
    assert torch.equal(solids.draw(3, seed=1)[0], solids.draw(3, seed=1)[0])
    assert not torch.equal(solids.draw(3, seed=1)[0], solids.draw(3, seed=2)[0])


@pytest.mark.parametrize(
    ("scene", "light", "message"),
    [
        (one(3), ABOVE, "`solids.kind` must hold integers from 0 to 2, got"),
        (one(1, size=-0.1), ABOVE, "`solids.size` must not be negative, got"),
        (one(1)._replace(colour=torch.zeros(1, 4)), ABOVE, r"`solids.colour` must end in shape \(3,\), got"),
        (one(1), torch.zeros(2), r"`light` must end in shape \(3,\), got shape \(2,\)"),
        (one(1), -ABOVE, "`light` must come from above the table, got"),
        (one(1)._replace(turn=torch.zeros(2, 3), away=torch.zeros(2)), ABOVE, "must have shapes that broadcast, got"),
    ],
)
def test_bad_scenes_are_refused(scene, light, message):
    with pytest.raises(ValueError, match=message):
        render(scene, light)


@pytest.mark.parametrize("wrong", [{"side": 0}, {"width": -1.0}])
def test_bad_pictures_are_refused(wrong):
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` must"):
        render(one(1), ABOVE, **wrong)
    with pytest.raises(ValueError, match="`size`"):
        solids.draw(-1, seed=0)
    with pytest.raises(TypeError, match="`seed`"):
        solids.draw(2, seed=0.5)


def test_lamps_are_directions():
    _, scene, light = solids.draw(2, seed=0)
    with pytest.raises(ValueError, match="`light` must hold unit vectors"):
        solids.render(scene, 2 * light)
    with pytest.raises(TypeError, match="`side` must hold floating-point numbers"):
        solids.lamp(torch.tensor(0))


def test_a_kind_between_two_is_refused():
    with pytest.raises(ValueError, match="`solids.kind` must hold integers from 0 to 2"):
        render(one(1.5), ABOVE)
