"""The simulation of group traffic: it loses nothing, and comes to what was measured where the bench has measured."""

from __future__ import annotations

import re

import pytest

from benchmarks.simulate import MEASURED, Costs, Traffic, plan, rounds, simulate


@pytest.mark.parametrize(("members", "senders"), MEASURED)
def test_a_delivery_costs_what_the_bench_has_measured(members: int, senders: int) -> None:
    service = rounds(members, senders, Costs())
    simulated = service.processes[0].cpu / service.deliveries
    assert simulated == pytest.approx(MEASURED[members, senders], rel=0.2)


def test_every_member_gets_every_message_wherever_it_is() -> None:
    traffic = Traffic(20_000, largest=2000, ranks=200)
    sizes = traffic.sizes()
    assert sum(sizes) == traffic.connections * traffic.memberships
    sent = []
    service = simulate(traffic, processes=7, shards=2, seconds=1.0, costs=Costs())
    service.delivered = lambda message, members: sent.append(members)
    before = service.deliveries
    for group, size in enumerate(sizes[:20]):
        assert sum(service.homes(group).values()) == size
        service.send(group)
    service.clock.run()
    assert sum(sent) == service.deliveries - before == sum(sizes[:20])
    # A process gets a message once, however many of its members want it.
    assert len(sent) == sum(len(service.homes(group)) for group in range(20))


def test_a_plan_keeps_every_core_below_what_it_may_be_busy() -> None:
    lines = "\n".join(plan(Traffic(40_000, largest=2000, ranks=200), Costs(), busy=0.5))
    shares = [int(share) for share in re.findall(r"(\d+)% busy", lines)]
    assert len(shares) == 2
    assert max(shares) <= 50
