"""The stages of a run, one module each with a function ``run(config)``.

Stages never import each other: they exchange files in the run folder. ``validate`` checks a configuration before a
stage starts. ``common`` and ``training`` hold code that several stages share.

May import: everything except tools.
"""
