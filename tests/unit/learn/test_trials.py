"""What is made of the errors that Ray tells of a training."""

from typing import Any

import pytest

from medd.errors import ModelUnusable, SettingsError, TransientError
from medd.learn.trials import failure


@pytest.fixture(scope="module")
def ray() -> Any:
    return pytest.importorskip("ray.exceptions")


def raised(ray: Any, cause: Exception) -> Any:
    """As `ray.get` raises what a task raised."""
    return ray.RayTaskError("train", "Traceback", cause, proctitle="ray", pid=1, ip="127.0.0.1").as_instanceof_cause()


def test_a_training_that_diverged_failed_by_itself(ray):
    diverged = ModelUnusable("training diverged")
    assert failure(raised(ray, diverged)) is diverged


@pytest.mark.parametrize("cause", [TypeError("a mistake"), SettingsError("no plugin"), MemoryError()])
def test_what_else_a_training_raises_is_raised_here(ray, cause):
    with pytest.raises(type(cause)) as told:
        failure(raised(ray, cause))
    assert told.value is cause


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("WorkerCrashedError", (), "died 4 times, WorkerCrashedError: The worker died"),
        ("NodeDiedError", ("the node is gone",), "died 4 times, NodeDiedError: the node is gone"),
        ("OutOfMemoryError", ("low on\n memory " * 99,), "OutOfMemoryError: low on memory low"),
        ("RuntimeEnvSetupError", ("no pip",), "RuntimeEnvSetupError: Failed to set up runtime environment. no pip"),
        ("ObjectLostError", ("ab", None, ""), "ObjectLostError: "),
    ],
)
def test_what_ray_could_not_do_may_pass_and_tells_the_reason(ray, name, arguments, told):
    error = getattr(ray, name)(*arguments)
    for one in (error, raised(ray, error)):
        failed = failure(one)
        assert type(failed) is TransientError
        assert told in str(failed)
        assert ("died 4 times" in str(failed)) == ("died 4 times" in told)
        assert len(str(failed)) < 400
