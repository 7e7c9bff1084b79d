"""How threads of one operation wait for each other; to be called before torch is loaded, which reads it then."""

import os

# Turns of an idle thread before it sleeps. Measured on two cores with a training step of 55 ms (V 376, D 128): asleep
# at once it takes 1.25 times as long, after 500 turns no longer than by OpenMP's default. Two such runs beside each
# other take 85 to 110 ms a step either way, and 325 to 345 ms after 20,000 turns.
TURNS = "500"


def wait_briefly() -> None:
    """Threads that wait spin for a moment, then sleep. What the environment says about it already goes before.

    GNU's OpenMP counts turns; others know only the policy, and sleep.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
        os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": TURNS}
