"""HTML pages about one run or two runs, and the upload of a finished run to W&B.

``run_page`` and ``comparison`` collect the contents from the files of a run, ``svg`` draws charts, and ``page`` renders
the Jinja2 templates of ``templates/``.

May import: errors, arch, config, recipe, distributed, run, search and its subpackages.
"""
