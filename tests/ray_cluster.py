"""A Ray cluster of several nodes on this host, in a process of its own, so that a node can be killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


class RayCluster:
    """A head and some further nodes, each with its own raylet and workers.

    Args:
        nodes: How many besides the head.
        cores: What each node says it has.
    """

    def __init__(self, nodes: int = 2, cores: int = 1) -> None:
        # The workers' own niceness would be added to that of the tests.
        environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "PYTHONWARNINGS": ""}
        command = [sys.executable, "-m", "tests.ray_cluster", str(nodes), str(cores)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
        self._process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, **pipes)
        self.address = self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            if line.startswith("cluster: "):
                return line.removeprefix("cluster: ").strip()
        raise AssertionError(f"the Ray cluster does not start: exit code {self._process.wait()}")

    def kill_node(self) -> None:
        """kill -9 of the raylet of one node that is not the head, and of all its workers."""
        assert self._process.stdin is not None
        self._process.stdin.write("kill\n")
        self._process.stdin.flush()
        assert self._read() == "killed"

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def __enter__(self) -> "RayCluster":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def main(nodes: int, cores: int) -> None:
    import psutil
    from ray.cluster_utils import Cluster

    size = {"num_cpus": cores, "object_store_memory": 128 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **size})
    added = [cluster.add_node(**size) for _ in range(nodes)]
    cluster.wait_for_nodes()
    print(f"cluster: {cluster.address}", flush=True)
    for line in sys.stdin:
        if line.strip() == "kill":
            raylet = psutil.Process(added.pop().all_processes["raylet"][0].process.pid)
            family = [raylet, *raylet.children(recursive=True)]
            for one in family:
                one.send_signal(signal.SIGKILL)
            print("cluster: killed", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
