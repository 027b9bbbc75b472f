"""A side as a process that waits for its turn."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO

from speed.envs import python_of, trouble_of
from speed.task import Task

ROOT = Path(__file__).resolve().parents[1]


class SideError(RuntimeError):
    """A side did not start, or broke off."""


def environment(threads: int) -> dict[str, str]:
    """The environment of every process that is timed: the same threads, no downloads, no cache."""
    count = str(threads)
    return os.environ | {
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "HF_HUB_OFFLINE": "1",
        "TRANSFERKIT_CACHE": tempfile.gettempdir() + "/transferkit-speed",
    }


def bind(cores: int) -> None:
    """Keep this process, and all that it starts, to the first ``cores`` cores it may use."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


class Side:
    """One side with one task, set up once; each round is asked for by a line."""

    def __init__(self, name: str, task: Task) -> None:
        self.name = name
        reason = trouble_of(name)
        if reason is not None:
            raise SideError(reason)
        self._log: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in __exit__)
        self._process = subprocess.Popen(
            [python_of(name), "-m", f"speed.sides.{name}", json.dumps(asdict(task))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=ROOT,
            env=environment(task.threads),
        )
        try:
            self.versions: dict[str, str] = json.loads(self._answer())
        except SideError:
            self.__exit__(None, None, None)
            raise

    def round(self) -> dict[str, float]:
        """Do the work once; its seconds and other figures."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        figures: dict[str, float] = json.loads(self._answer())
        return figures

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return line
        self._process.wait()
        self._log.seek(0)
        said = [text for text in self._log.read().splitlines() if text.strip()]
        raise SideError(said[-1].strip() if said else f"exit code {self._process.returncode}")

    def __enter__(self) -> Side:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
