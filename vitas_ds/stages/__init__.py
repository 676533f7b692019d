"""The stages of a run, one module each with a function ``run(config)``.

Stages never import each other: they exchange files in the folder of the run. ``validate`` checks a configuration before
a stage starts.

May import: everything except tools.
"""
