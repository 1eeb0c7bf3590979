"""The checks of the matrix detect missing or excess numbers, an affected second endpoint, and leaked sessions."""

from collections.abc import Callable

import pytest

from tests.faults.kit import Case, Numbered, suffering


@pytest.mark.parametrize(
    "tamper",
    [lambda came: came.pop(3), lambda came: came.insert(3, came[3]), lambda came: came.append(came.pop(3))],
    ids=["one is missing", "one came twice", "one came late"],
)
async def test_only_the_last_numbers_may_be_missing(tamper: Callable[[list[int]], None]) -> None:
    """Only the last numbers of a session may be missing."""
    async with Numbered() as server, suffering(f"ws://localhost:{server.port}") as case:
        await case.flows()
        server.drop()
        await case.comes_back()
        assert case.destroyed(server.handed) >= 0
        tamper(case.seen["sick", 1])
        with pytest.raises(AssertionError):
            case.destroyed(server.handed)


async def restarts_the_bystander(case: Case) -> None:
    case.calm.restart()
    await case.flows("calm")


async def loses_a_message_of_the_bystanders(case: Case) -> None:
    case.seen["calm", 1].pop(3)


async def unbalances(case: Case) -> None:
    case.fleet._registry.hub.published += 1


async def keeps_a_session(case: Case) -> None:
    await case.flows()
    case.kept = case.sick._supervisor.session  # type: ignore[attr-defined]
    case.sick.restart()
    await case.comes_back()


@pytest.mark.parametrize(
    "harm", [restarts_the_bystander, loses_a_message_of_the_bystanders, unbalances, keeps_a_session]
)
async def test_side_effects_of_a_fault_are_detected(harm: Callable[[Case], object]) -> None:
    """If a fault affects another endpoint, the balance or the memory, its test fails."""
    with pytest.raises(AssertionError):
        async with Numbered() as server, suffering(f"ws://localhost:{server.port}") as case:
            await harm(case)  # type: ignore[misc]
