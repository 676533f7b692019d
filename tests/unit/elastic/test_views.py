"""Two views: crops of the image, reproducible, and equal to the image where it is constant."""

import torch

from vitas_ds.elastic.views import two_views


def test_views_are_a_function_of_image_and_seed():
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    views = two_views(image, 5)
    assert views.shape == (2, 3, 32, 32) and torch.equal(views, two_views(image, 5))
    assert not torch.equal(views[0], views[1]) and not torch.equal(views, two_views(image, 6))


def test_views_show_at_least_half_of_the_image_and_flip_half_of_the_time():
    ramp = torch.linspace(0, 1, 64).expand(3, 64, 64)  # the left edge is 0, the right one 1
    views = torch.cat([two_views(ramp, seed) for seed in range(100)])
    left, right = views[:, 0, 0, 0], views[:, 0, 0, -1]
    assert 0.4 < (left > right).float().mean() < 0.6
    shares = (right - left).abs()
    assert shares.min() > 0.5**0.5 - 0.05 and shares.max() > 0.9
    torch.testing.assert_close(two_views(torch.full((3, 32, 32), 0.3), 1), torch.full((2, 3, 32, 32), 0.3))
