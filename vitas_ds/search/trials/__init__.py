"""Short trainings of candidates on their own: finalists of a search, and the check of a supernet's ranking.

May import: what ``search`` may import. The folder is a part of that package.
"""
