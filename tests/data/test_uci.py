"""The published preprocessing of the UCI data sets, on small files of the same formats."""

import numpy as np
import pytest
import torch

from pyrogen.data import uci

ROWS = 500


@pytest.fixture
def random():
    return np.random.default_rng(0)


def check(table, columns):
    assert isinstance(table, uci.Table)
    for part in table:
        assert part.dtype == torch.float32
        assert part.shape[1] == columns
        assert part.isfinite().all()


def saved(array, folder):
    np.save(folder / "data.npy", array)
    return folder / "data.npy"


def test_power(tmp_path, random):
    """Noise no larger than the meters' resolution, rows by the protocol's seed, moments of the rows not for testing."""
    given = random.normal(5, 3, (ROWS, 8)) * np.arange(1, 9)
    table = uci.power(saved(given, tmp_path))
    check(table, 6)
    assert [len(part) for part in table] == [405, 45, 50]

    order = np.arange(ROWS)
    np.random.RandomState(42).shuffle(order)  # noqa: NPY002
    kept = given[order][:, [0, 2, 4, 5, 6, 7]]
    seen = torch.cat(table[:2]).double()
    torch.testing.assert_close(seen.mean(0), torch.zeros(6).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(seen.std(0, correction=0), torch.ones(6).double(), atol=1e-6, rtol=0)
    # Undo the standardization by least squares on the rows: the residual is the noise, uniform on [0, resolution).
    everything = torch.cat(table).double().numpy()
    for column, resolution in enumerate((0.001, 0.01, 1.0, 1.0, 1.0, 0.0)):
        slope, offset = np.polyfit(everything[:, column], kept[:, column], 1)
        noise = slope * everything[:, column] + offset - kept[:, column]
        # The standard deviation of uniform noise, up to the noise of 500 draws (5 sigma: 10 %) and float32 rounding.
        assert noise.std() == pytest.approx(resolution / 12**0.5, rel=0.1, abs=1e-4)


def test_power_is_repeatable_and_leaves_the_file(tmp_path, random):
    path = saved(random.normal(size=(ROWS, 8)), tmp_path)
    content = path.read_bytes()
    assert all(torch.equal(one, other) for one, other in zip(uci.power(path), uci.power(path), strict=True))
    assert path.read_bytes() == content


def test_gas(tmp_path, random):
    """Of three sensors alike the last stays; all rows standardize."""
    pandas = pytest.importorskip("pandas")
    sensors = random.normal(2, 5, (ROWS, 4))
    twins = sensors[:, [0, 0]] * [3.0, 0.5] + 0.01 * random.normal(size=(ROWS, 2))
    columns = np.column_stack((random.normal(size=(ROWS, 3)), sensors[:, :1], twins, sensors[:, 1:]))
    frame = pandas.DataFrame(columns, columns=["Time", "Meth", "Eth", *(f"R{index}" for index in range(6))])
    frame.to_pickle(tmp_path / "ethylene_CO.pickle")

    table = uci.gas(tmp_path / "ethylene_CO.pickle")
    check(table, 4)
    assert [len(part) for part in table] == [405, 45, 50]
    kept = np.column_stack((twins[:, 1:], sensors[:, 1:]))
    expected = (kept - kept.mean(0)) / kept.std(0, ddof=1)
    torch.testing.assert_close(torch.cat(table), torch.from_numpy(expected).float())


def write_hepmass(folder, random, extra=1):
    pandas = pytest.importorskip("pandas")
    parts = {}
    for part, rows in (("train", ROWS), ("test", 100)):
        label = random.integers(0, 2, rows)
        features = random.normal(size=(rows, 5)) * [1, 2, 3, 4, 5]
        features[:, 1] = random.integers(0, 2, rows)  # its smallest value is repeated
        features[:10, 2] = 50.0  # a repeated value that is not the smallest does not count
        table = pandas.DataFrame(np.column_stack((label, features)), columns=["# label", *"abcde"])
        if part == "test" and extra:
            table["mass"] = 1000.0
        table.to_csv(folder / f"1000_{part}.csv", index=False)
        parts[part] = features[label == 1]
    return parts


def test_hepmass(tmp_path, random):
    """Signal only; the discrete feature goes; the test rows take the training moments."""
    parts = write_hepmass(tmp_path, random)
    table = uci.hepmass(tmp_path)
    check(table, 4)
    kept = [0, 2, 3, 4]
    mean, scale = parts["train"].mean(0)[kept], parts["train"].std(0, ddof=1)[kept]
    expected = torch.from_numpy((parts["train"][:, kept] - mean) / scale).float()
    torch.testing.assert_close(torch.cat(table[:2]), expected)
    assert len(table.validation) == len(expected) // 10
    torch.testing.assert_close(table.test, torch.from_numpy((parts["test"][:, kept] - mean) / scale).float())


def test_miniboone(tmp_path, random):
    given = random.normal(3, 2, (ROWS, 43))
    table = uci.miniboone(saved(given, tmp_path))
    check(table, 43)
    seen = given[:450]
    torch.testing.assert_close(torch.cat(table), torch.from_numpy((given - seen.mean(0)) / seen.std(0)).float())
    assert [len(part) for part in table] == [405, 45, 50]


def test_bsds300(tmp_path, random):
    h5py = pytest.importorskip("h5py")
    parts = {name: random.normal(size=(rows, 63)) for name, rows in (("train", 9), ("validation", 4), ("test", 3))}
    with h5py.File(tmp_path / "BSDS300.hdf5", "w") as file:
        for name, part in parts.items():
            file[name] = part
    table = uci.bsds300(tmp_path / "BSDS300.hdf5")
    check(table, 63)
    for part, given in zip(table, parts.values(), strict=True):
        torch.testing.assert_close(part, torch.from_numpy(given).float())


@pytest.mark.parametrize("load", [uci.power, uci.miniboone])
def test_another_number_of_columns_is_refused(load, tmp_path):
    with pytest.raises(ValueError, match=r"`path` must hold an array of \d+ columns, got shape \(10, 5\)"):
        load(saved(np.zeros((10, 5)), tmp_path))


def test_frames_without_the_columns_are_refused(tmp_path):
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame({"Time": [0.0]}).to_pickle(tmp_path / "gas.pickle")
    with pytest.raises(ValueError, match=r"columns \['Meth', 'Eth', 'Time'\], got \['Time'\]"):
        uci.gas(tmp_path / "gas.pickle")


def test_hepmass_files_that_do_not_match_are_refused(tmp_path, random):
    write_hepmass(tmp_path, random, extra=0)
    with pytest.raises(ValueError, match="one column more than the training file, got 6 and 6"):
        uci.hepmass(tmp_path)


def test_patches_without_a_part_are_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "BSDS300.hdf5", "w") as file:
        file["train"] = np.zeros((2, 63))
    with pytest.raises(ValueError, match=r"missing are \['test', 'validation'\]"):
        uci.bsds300(tmp_path / "BSDS300.hdf5")
