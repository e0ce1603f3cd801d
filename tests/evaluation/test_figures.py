import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from starquant_fx.errors import InputError, StarQuantError
from starquant_fx.evaluation import Interval, Trajectory
from starquant_fx.evaluation.figures import (
    Point,
    activations_by_channel,
    activations_by_layer,
    check_folder,
    error_by_layer,
    error_by_step,
    gap_by_bits,
    require_matplotlib,
    save,
)
from starquant_fx.evaluation.figures.style import COLOURS, INK, looks, rendered
from starquant_fx.evaluation.profiles import Profile

PAGES = {"white": "#FFFFFF", "dark": "#121212"}


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.1 defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES.keys())
def test_colours_stand_out_on_light_and_dark_pages(page: str) -> None:
    for colour in (*COLOURS, INK):
        bright, dim = sorted((luminance(colour), luminance(page)), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= (4 if colour == INK else 2.99)


def test_no_two_of_a_dozen_series_look_the_same() -> None:
    found = looks(map(str, range(12)))
    for one, other in itertools.combinations(found.values(), 2):
        assert (one.marker, one.linestyle) != (other.marker, other.linestyle) or (
            one.color != other.color
        )
        if one.color == other.color:
            assert one.linestyle != other.linestyle
            assert one.marker != other.marker


def trajectory(scale: float) -> Trajectory:
    generator = torch.Generator().manual_seed(1)
    errors = scale * (1 + torch.rand(4, 2, 3, generator=generator, dtype=torch.float64))
    committed = torch.tensor([[2, 2, 2], [0, 0, 0], [2, 2, 2], [2, 2, 2]])
    return Trajectory(committed, committed, committed // 2, errors, 2 * errors, errors[:, 0])


FOUND = {"rtn-w4a4": trajectory(0.1), "star-w4a4": trajectory(0.01)}
ROLES = (("q", "k", "v"), ("o",))


def profiles() -> list[Profile]:
    quantiles = torch.linspace(-4, 4, 9).expand(2, 9)
    return [
        Profile(f"{roles}{layer}", roles, layer, quantiles * (layer + 1), torch.ones(2, 6))
        for layer in range(3)
        for roles in ROLES
    ]


POINTS = [
    Point("rtn", (4, 4), Interval(0.3, 0.2, 0.4)),
    Point("rtn", (8, 8), Interval(-0.001, -0.002, 0.001)),
    Point("star", (4, 4), Interval(0.01, 0.009, 0.012)),
    Point("star", (3, 8), Interval(0.05, 0.04, 0.06)),
]


def all_figures() -> dict[str, Any]:
    return {
        "by_layer": activations_by_layer(profiles()),
        "by_channel": activations_by_channel(profiles()),
        "steps": error_by_step(FOUND),
        "layers": error_by_layer(FOUND),
        "bits": gap_by_bits(POINTS),
    }


@pytest.mark.parametrize("name", sorted(all_figures()))
def test_every_axis_is_labelled_and_every_series_is_named(name: str) -> None:
    figure = all_figures()[name]
    for axes in figure.axes:
        assert axes.get_xlabel()
        assert axes.get_ylabel()
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 2
    assert figure.patch.get_alpha() == 0


def test_lines_are_the_figures_that_were_measured() -> None:
    axes: Any = error_by_step(FOUND).axes
    hidden, flips, apart = axes
    for i, one in enumerate(FOUND.values()):
        assert hidden.lines[i].get_ydata() == pytest.approx(one.hidden.mean((1, 2)).numpy())
        assert list(flips.lines[i].get_ydata()) == pytest.approx(
            [50, torch.nan, 50, 50], nan_ok=True
        )
        assert apart.lines[i].get_ydata() == pytest.approx(100 * one.apart.mean(1).numpy())
        assert list(hidden.lines[i].get_xdata()) == [1, 2, 3, 4]
    axes = error_by_layer(FOUND).axes
    layers, attention = axes
    for i, one in enumerate(FOUND.values()):
        assert layers.lines[i].get_ydata() == pytest.approx(one.hidden.mean((0, 2)).numpy())
        assert attention.lines[i].get_ydata() == pytest.approx(one.attention.mean((0, 2)).numpy())


def test_bits_are_ordered_and_bars_are_the_intervals() -> None:
    (panel,) = gap_by_bits(POINTS).axes
    assert [text.get_text() for text in panel.get_xticklabels()] == ["W4A4", "W3A8", "W8A8"]
    bars: Any = panel.containers
    rtn, star = bars
    assert rtn.lines[0].get_ydata().tolist() == [0.3, -0.001]
    assert star.lines[0].get_ydata().tolist() == [0.01, 0.05]
    ends = rtn.lines[2][0].get_segments()[0][:, 1]
    assert ends.tolist() == pytest.approx([0.2, 0.4])


def test_far_outliers_make_the_axis_logarithmic() -> None:
    given = profiles()
    assert activations_by_layer(given).axes[0].get_yscale() == "linear"
    far = given[0].quantiles.clone()
    far[0, -1] = 900
    given[0] = dataclasses.replace(given[0], quantiles=far)
    assert activations_by_layer(given).axes[0].get_yscale() == "symlog"


def test_files_are_whole_and_the_same_each_time(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    check_folder(folder)
    assert not folder.exists()  # not before there is something to put into it
    files = save({"layers": error_by_layer(FOUND)}, folder)
    assert sorted(p.name for p in folder.iterdir()) == ["layers.png", "layers.svg"]
    assert files[0].read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in files[1].read_bytes()
    again = dict(rendered({"layers": error_by_layer(FOUND)}))
    assert {p.name: p.read_bytes() for p in files} == again


def test_a_folder_that_is_a_file_and_a_missing_library_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "no" / "deeper"):
        with pytest.raises(InputError, match="cannot be made"):
            check_folder(folder)
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(StarQuantError, match=r"starquant-fx\[figures\]"):
        require_matplotlib()
