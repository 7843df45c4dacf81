import torch
import torch.nn.functional as F

from onnuri.toyworld.codecs.sprites import MARGIN, crop, place


def test_crop_is_grid_sample():
    """In 64 bits, where both agree to the last digits."""
    pictures = torch.rand(2, 3, 128, 128, dtype=torch.float64)
    boxes = torch.tensor([[60.3, 70.1, 30.0, 24.0], [20.0, 25.0, 18.0, 40.0]], dtype=torch.float64)
    steps = ((torch.arange(40, dtype=torch.float64) + 0.5) / 40 - 0.5) * MARGIN
    x, y = boxes[:, :1] + steps * boxes[:, 2:3], boxes[:, 1:2] + steps * boxes[:, 3:4]
    grid = torch.stack(
        [(x / 64 - 1)[:, None].expand(-1, 40, -1), (y / 64 - 1)[:, :, None].expand(-1, -1, 40)], -1
    )
    reference = F.grid_sample(pictures, grid, align_corners=False, padding_mode="zeros")
    assert torch.allclose(crop(pictures, boxes[:, None], 40)[:, 0], reference, rtol=0, atol=1e-10)


def test_what_is_placed_is_cut_out_again():
    sprites = F.avg_pool2d(torch.rand(1, 4, 40, 40), 5, 1, 2)
    boxes = torch.tensor([[64.0, 64.0, 80.0, 80.0]])
    again = crop(place(sprites, boxes), boxes[:, None], 40)[:, 0]
    assert (again - sprites).abs()[:, :, 2:-2, 2:-2].max() < 0.05
