"""What was told of a short while ago."""

from medd_web.lately import Lately


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_key_is_remembered_for_a_while_from_when_it_was_added_last():
    clock = Clock()
    lately = Lately(10, clock=clock)
    assert "a" not in lately
    lately.add("a")
    clock.now += 9
    assert "a" in lately
    lately.add("a")
    clock.now += 9
    assert "a" in lately
    clock.now += 1
    assert "a" not in lately


def test_of_too_many_keys_the_oldest_are_forgotten():
    lately = Lately(10, keys=2, clock=Clock())
    for key in ("a", "b", "a", "c"):
        lately.add(key)
    assert [key in lately for key in "abc"] == [True, False, True]
