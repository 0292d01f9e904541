"""How often something may be done: nobody guesses for long, and nobody locks another out for ever."""

import pytest
from fastapi import Request

from medd_web.buckets import Buckets, LoginGuard, address_of


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_bucket_is_emptied_at_once_and_filled_slowly(clock):
    buckets = Buckets(3, 0.5, clock=clock)
    assert [buckets.take("a") for _ in range(4)] == [0.0, 0.0, 0.0, 2.0]
    assert buckets.take("b") == 0.0
    clock.now += 2
    assert buckets.take("a") == 0.0
    assert buckets.take("a") == 2.0
    clock.now += 1000
    assert [buckets.take("a") for _ in range(4)] == [0.0, 0.0, 0.0, 2.0]


def test_what_is_given_back_can_be_taken_again_but_no_more_than_there_is_room_for(clock):
    buckets = Buckets(2, 1, clock=clock)
    buckets.give_back("a")
    assert [buckets.take("a") for _ in range(3)] == [0.0, 0.0, 1.0]
    buckets.give_back("a")
    assert buckets.take("a") == 0.0


def test_a_flood_of_keys_takes_no_more_memory_than_a_few(clock):
    buckets = Buckets(1, 1, keys=100, clock=clock)
    for key in range(10_000):
        buckets.take(key)
    assert len(buckets._levels) == 100


def tries(guard: LoginGuard, name: str, address: str, *, familiar: bool = False, most: int = 1000) -> int:
    """How many tries there are before one has to wait."""
    return next((n for n in range(most) if guard.take(name, address, familiar=familiar)), most)


def test_a_user_is_tried_a_few_times_from_an_address_and_then_once_a_minute(clock):
    guard = LoginGuard(clock)
    assert tries(guard, "ann", "10.0.0.1") == 5
    for _ in range(10):
        clock.now += 61
        assert tries(guard, "ann", "10.0.0.1") == 1


def test_the_right_password_counts_as_no_try(clock):
    guard = LoginGuard(clock)
    for _ in range(100):
        assert guard.take("ann", "10.0.0.1", familiar=False) == 0.0
        guard.give_back("ann", "10.0.0.1", familiar=False)


def test_one_address_cannot_try_a_list_of_names(clock):
    guard = LoginGuard(clock)
    assert sum(not guard.take(f"user{n}", "10.0.0.1", familiar=False) for n in range(1000)) == 30
    assert guard.take("ann", "10.0.0.2", familiar=False) == 0.0


def test_many_machines_cannot_guess_one_users_password_nor_lock_her_out_where_she_is_known(clock):
    guard = LoginGuard(clock)
    assert sum(not guard.take("ann", f"10.0.{n}.1", familiar=False) for n in range(200)) == 20
    assert guard.take("ann", "10.9.9.9", familiar=False) > 0
    assert guard.take("ann", "192.168.0.7", familiar=True) == 0.0
    clock.now += 61
    assert guard.take("ann", "10.9.9.9", familiar=False) == 0.0


def test_a_try_that_has_to_wait_costs_nothing_elsewhere(clock):
    guard = LoginGuard(clock)
    tries(guard, "ann", "10.0.0.1")
    for _ in range(1000):
        assert guard.take("ann", "10.0.0.1", familiar=False) > 0
    assert tries(guard, "bob", "10.0.0.1") == 5
    assert tries(guard, "ann", "10.0.0.2") == 5


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("::1", "::1"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("testclient", "testclient"),
    ],
)
def test_a_caller_of_ipv6_is_its_whole_network(host, shown):
    assert address_of(Request({"type": "http", "client": (host, 1), "headers": []})) == shown


def test_a_caller_without_an_address_is_one_caller():
    assert address_of(Request({"type": "http", "client": None, "headers": []})) == ""
