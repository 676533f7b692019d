"""Networks: the weight-sharing ``Supernet``, and ``VisionTransformer``, the plain network of one spec.

Both store weights only: ``pack`` gathers the slices of a network, and ``net`` is the forward pass of all networks.
``extract`` copies a subnet of the supernet into a plain network with equal outputs. ``channels`` defines which channels
of a shared weight a width uses.

May import: errors, arch.
"""
