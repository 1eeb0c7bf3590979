"""A short `make soak`: its measurements, its criteria, and that it finds a leak."""

import asyncio
import random
from collections import Counter

import pytest

from tools.soak.page import page, verdict
from tools.soak.run import Report, soak
from tools.soak.samples import Samples
from tools.soak.verdict import End, growth, judge, slope

END = End(balanced=True, processed=10, failed=2, pending=0, handled=11, asked={"restarts": 3})


@pytest.mark.parametrize("fill", ["flat", "leaking"])
def test_a_slope_is_seen_through_noise_and_outliers(fill: str) -> None:
    """A level with noise and a few spikes is flat; one that rises by a tenth is not, with or without spikes."""
    chance = random.Random(1)
    at = [float(n) for n in range(80)]
    rise = 0.1 if fill == "leaking" else 0.0
    values = [100.0 + rise * 100 * n / 80 + chance.uniform(-2, 2) + (50 if n % 20 == 7 else 0) for n in range(80)]
    values[:20] = [10.0 + 4 * n for n in range(20)]  # the warm-up is not included
    found = growth(at, values)
    assert found is not None
    assert found == pytest.approx(0.07 if fill == "leaking" else 0.0, abs=0.015)


def test_a_slope_is_the_median_of_those_between_the_points() -> None:
    """For points on a line with one outlier the slope is that of the line; for a few points there is none."""
    assert slope([0, 1, 2, 3, 4], [0, 2, 4, 60, 8]) == 2
    assert growth([0, 1, 2], [1, 1, 1]) is None


def test_each_criterion_fails_for_its_own_reason() -> None:
    """Failed criteria are named; a run too short for slopes always fails these."""

    def failing(**changes: object) -> list[str]:
        given = {"samples": Samples(), "end": END, "log": [], "before": Counter(), "after": Counter()} | changes
        criteria = judge(connections=1000, **given)  # type: ignore[arg-type]
        return [each.name for each in criteria if each.holds is False]

    assert failing() == []
    end = {"balanced": True, "processed": 10, "failed": 2, "pending": 0, "handled": 11, "asked": {}}
    assert failing(end=End(**end | {"balanced": False})) == ["The balance is exact at the end"]
    assert failing(end=End(**end | {"pending": 1})) == ["Nothing is pending at the end"]
    assert failing(end=End(**end | {"handled": 9})) == ["Processors and loops got the counted messages"]
    assert failing(end=End(**end | {"handled": 13})) == ["Processors and loops got the counted messages"]
    assert failing(samples=Samples(unbalanced=1)) == ["The balance is exact in every sample"]
    assert failing(log=["x: the supervisor failed"]) == ["The log contains no fault of wsfleet itself"]
    ours, others = failing(after=Counter({"wsfleet.endpoint.ingest.Ingest": 1})), failing(after=Counter(dict=101))
    assert ours == ["No object of wsfleet, websockets or asyncio is left"]
    assert others == ["The number of other objects is the same as before"]
    assert failing(after=Counter(dict=100)) == []
    at = [float(n) for n in range(40)]
    grown = Samples(weighed_at=at, traced=[1000 + int(n) for n in at], rss=[1000] * 40)
    assert failing(samples=grown) == ["traced memory does not grow"]


def small(seconds: float = 3.0) -> Report:
    return soak(60, seconds, 3, asyncio.run, lambda text: None)


def test_a_small_soak_ends_balanced_and_leaves_nothing() -> None:
    """With sixty connections and a faulty server, for some seconds, every criterion that can be checked holds."""
    for seconds in (3.0, 12.0, 48.0, 96.0):  # the first is enough; a busy machine gets more
        report = small(seconds)
        if not report.failed and report.faults and report.samples.received[-1] > 60:
            break
    assert not report.failed, report.failed
    assert report.samples.received[-1] > 60
    assert report.faults
    text = page(report, [("A plot", "<svg></svg>")])
    assert verdict(report) in text and "<h2>A plot</h2>\n<svg></svg>" in text and f"--seed {report.seed}" in text


def test_a_short_soak_finds_leaked_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects of wsfleet that are still referenced are listed as leaks."""
    from wsfleet.core.attempt import Attempt
    from wsfleet.endpoint.ingest import Ingest

    kept: list[Attempt] = []
    detach = Ingest.detach

    def keep(self: Ingest) -> None:
        kept.extend(Attempt("a", None, None, 0) for _ in range(20))
        detach(self)

    monkeypatch.setattr(Ingest, "detach", keep)
    found = {each.name: each.found for each in small().failed}
    assert "wsfleet.core.attempt.Attempt" in found["No object of wsfleet, websockets or asyncio is left"]


@pytest.mark.leaves_open  # matplotlib keeps its font files open
def test_each_series_is_plotted() -> None:
    """Each series is in one of the plots, as self-contained SVG."""
    pytest.importorskip("matplotlib", reason="the extra bench brings it")
    from tools.soak.plots import draw

    samples = Samples(weighed_at=[1.0, 2.0], rss=[1, 2], traced=[1, 2], objects={"dict": [1, 2]})
    samples.at, samples.received, samples.losses = [1.0, 2.0], [1, 2], [0, 1]
    samples.connects, samples.pending, samples.paused = [1, 2], [0, 0], [0, 0]
    for series in (*samples.states.values(), *samples.dropped.values()):
        series += [1, 1]
    plots = dict(draw(samples))
    assert len(plots) == 7
    assert all(svg.startswith("<svg") and "</svg>" in svg for svg in plots.values())
