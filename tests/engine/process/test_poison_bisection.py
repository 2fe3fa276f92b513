"""The request that kills the engine is found, and no other is blamed."""

from math import ceil, log2

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thothy_batch.engine.process.poison_bisection import PoisonBisection


class Machine:
    """Computes batches of requests; dies of the poisoned ones, after some others are finished."""

    def __init__(self, num: int, poison: set[int], order: list[int]) -> None:
        self.bisection = PoisonBisection()
        self.waiting = list(range(num))
        self.in_engine: list[int] = []
        self.poison, self.order = poison, order
        self.finished: list[int] = []
        self.blamed: list[int] = []
        self.num_deaths = 0

    def run(self) -> None:
        while self.waiting or self.in_engine:
            may = [i for i in self.waiting if self.bisection.may_run(i)]
            assert may or self.in_engine, "requests wait, and none may run"
            self.waiting = [i for i in self.waiting if i not in may]
            self.in_engine += may
            self._compute()

    def _compute(self) -> None:
        deadly = self.poison & set(self.in_engine)
        # Before a death some finish: those that the order puts before the first poisoned one.
        for request in sorted(self.in_engine, key=self.order.index):
            if request in deadly:
                self._die()
                return
            self.in_engine.remove(request)
            self.finished.append(request)
            self.bisection.remove(request)

    def _die(self) -> None:
        self.num_deaths += 1
        culprit = self.bisection.died(self.in_engine)
        if culprit is not None:
            self.in_engine.remove(culprit)
            self.blamed.append(culprit)
        self.waiting = self.in_engine + self.waiting
        self.in_engine = []


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_exactly_the_poison_is_blamed(data: st.DataObject) -> None:
    num = data.draw(st.integers(1, 70))
    poison = data.draw(st.sets(st.integers(0, num - 1), max_size=4))
    order = data.draw(st.permutations(range(num)))
    machine = Machine(num, poison, list(order))
    machine.run()
    assert sorted(machine.blamed) == sorted(poison)
    assert sorted(machine.finished) == sorted(set(range(num)) - poison)
    # The first death blames none; then the suspects are halved each time.
    assert machine.num_deaths <= len(poison) * (ceil(log2(num)) + 3)


@pytest.mark.parametrize("num", [1, 2, 200])
def test_one_death_blames_no_request(num: int) -> None:
    bisection = PoisonBisection()
    assert bisection.died(list(range(num))) is None
    for request in range(num):
        assert bisection.may_run(request)
        bisection.remove(request)
    # Deaths of other requests, hours later, are first ones again.
    assert bisection.died([500, 501]) is None
    assert all(map(bisection.may_run, range(600)))


def test_a_death_without_requests_blames_none() -> None:
    bisection = PoisonBisection()
    assert bisection.died([]) is None
    assert bisection.died([7]) is None
    assert bisection.died([]) is None
    assert bisection.died([7]) == 7
