"""HTML pages about a run, or about two, and the upload of a finished run to W&B.

``run_page`` and ``comparison`` build pages from the files of a run; ``svg`` draws charts and ``html`` lays them out.

May import: errors, arch, config, recipe, distributed, run, search and its subpackages.
"""
