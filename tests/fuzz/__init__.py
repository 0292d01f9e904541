"""Whatever strangers may send, damaged by a seed: ``python -m tests.fuzz``, `make fuzz`.

What comes out is one of our own errors or an outcome that is documented: never another exception, a hang, a process
that swells, or a status 500. A decoder's death costs its image and nothing else.
"""
