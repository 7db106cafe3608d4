"""The protocol by which runs survive anything, in a world where anything happens.

world        processes and one store; a seed decides who goes next and what fails
records      what the protocol writes, in small
invariants   what must hold, looked at each time an object changes, and at the end
protocol     drivers, attempts at shards, assemblies, retries and cleaning
mutants      the same protocol with one rule broken
story        one seed from the first driver to the last zombie

Nothing here is threaded or timed: a seed gives the same story on every machine.
"""
