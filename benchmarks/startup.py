"""How long edgedet takes to start: `import edgedet` and `edgedet --help`, in fresh processes.

    python benchmarks/startup.py

Each is beside a bare `python -c pass`, so that a slow machine shows. Limits
are for the best of the runs: 0.15 s and 0.4 s. Exit code 1 past a limit.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from edgedet import console

RUNS = 10
COMMANDS = {
    "python -c pass": (["-c", "pass"], None),
    "import edgedet": (["-c", "import edgedet"], 0.15),
    "edgedet --help": (["-m", "edgedet", "--help"], 0.4),
}


def seconds(arguments: list[str]) -> float:
    """Wall-clock seconds of one fresh Python process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Print the table; exit 1 past a limit."""
    times = {name: [seconds(arguments) for _ in range(RUNS)] for name, (arguments, _) in COMMANDS.items()}
    rows = [
        [name, f"{min(times[name]):.3f}", f"{statistics.median(times[name]):.3f}", "" if limit is None else f"{limit:.2f}"]
        for name, (_, limit) in COMMANDS.items()
    ]
    console.print_table(["command", "best s", "median s", "limit s"], rows, title=f"{RUNS} fresh processes each")
    late = [name for name, (_, limit) in COMMANDS.items() if limit is not None and min(times[name]) > limit]
    if late:
        sys.exit(f"past the limit: {', '.join(late)}")


if __name__ == "__main__":
    main()
