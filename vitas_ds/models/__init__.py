"""Networks: the weight-sharing ``Supernet`` and the plain ``VisionTransformer`` of one spec.

``extract`` turns a subnet of the supernet into a plain network with equal outputs. ``channels`` defines which channels
of a shared weight a width uses.

May import: errors, arch.
"""
