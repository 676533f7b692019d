"""Commands that need no run, one module each with a function ``run(args) -> exit status``.

May import: everything except stages.
"""
