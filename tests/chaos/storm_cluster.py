"""A Ray cluster in a process of its own, so that it can be killed as a whole; not a test.

Its argument says how many nodes it has beside the head, which works only where it is
alone. Reads one command a line from stdin: ``add``, ``remove NODE`` (at once, as when its
power fails) or ``end``, and answers each with what there is, as JSON.
"""

import json
import os
import sys

from ray.cluster_utils import Cluster

CPUS = 2
FAST = {
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
    # On a small machine processes that nobody needs only make all wait.
    "prestart_worker_first_driver": False,
    "enable_worker_prestart": False,
}


class Grounds:
    def __init__(self, nodes):
        head = {
            "num_cpus": 0 if nodes else CPUS,
            "include_dashboard": False,
            "_system_config": FAST,
        }
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = {}
        for _ in range(nodes):
            self.add(wait=False)
        self.cluster.wait_for_nodes()

    def add(self, *, wait=True):
        node = self.cluster.add_node(wait, num_cpus=CPUS)
        self.nodes[node.node_id] = node

    def remove(self, name):
        self.cluster.remove_node(self.nodes.pop(name), allow_graceful=False)

    def describe(self):
        return {
            "address": self.cluster.address,
            "gcs": pid(self.cluster.head_node, "gcs_server"),
            "nodes": {name: pid(node, "raylet") for name, node in self.nodes.items()},
        }


def pid(node, kind):
    return node.all_processes[kind][0].process.pid


def main():
    # Whatever prints, stdout is for answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    grounds = Grounds(int(sys.argv[1]))
    answers.write(json.dumps(grounds.describe()) + "\n")
    answers.flush()
    for line in sys.stdin:
        name, *arguments = line.split()
        if name == "end":
            break
        getattr(grounds, name)(*arguments)
        answers.write(json.dumps(grounds.describe()) + "\n")
        answers.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
