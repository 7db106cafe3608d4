"""The share of time a GPU is busy, sampled while something else runs.

NVML's utilisation is the share of its last sample period, a sixth of a second to
a second, in which at least one kernel ran. It says nothing of how full the GPU
was; the share of the forward-only rate says that.
"""

import importlib.util
import shutil
import statistics
import subprocess
import threading
import time
from contextlib import contextmanager

PERIOD_S = 0.2


class Busy:
    """Samples of the first GPU's utilisation."""

    def __init__(self, device):
        """Find a way to ask; ``source`` is None where there is none."""
        self.samples = []
        self.source = self._ask = None
        if device != "cuda":
            return
        if importlib.util.find_spec("pynvml") is not None:
            self.source, self._ask = "NVML (pynvml)", _ask_nvml()
        elif shutil.which("nvidia-smi"):
            self.source, self._ask = "nvidia-smi", _ask_nvidia_smi

    @contextmanager
    def watch(self):
        """Sample in a thread for a block of code."""
        stop = threading.Event()
        thread = threading.Thread(target=self._sample, args=(stop,), daemon=True)
        self.samples = []
        if self._ask is not None:
            thread.start()
        try:
            yield self
        finally:
            stop.set()
            if self._ask is not None:
                thread.join()

    def share(self, start_s, stop_s):
        """Mean from 0 to 1 between two times of ``perf_counter``, or None."""
        inside = [busy for at, busy in self.samples if start_s <= at <= stop_s]
        return statistics.fmean(inside) / 100 if inside else None

    def _sample(self, stop):
        while not stop.wait(PERIOD_S):
            busy = self._ask()
            self.samples.append((time.perf_counter(), busy))


def _ask_nvml():
    import pynvml

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    return lambda: float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)


def _ask_nvidia_smi():
    query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--id=0"]
    command = [shutil.which("nvidia-smi"), *query]
    # Nothing but constants reaches it.
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return float(done.stdout.split()[0])
