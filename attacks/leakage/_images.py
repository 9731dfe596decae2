"""Features that are the pixels of images: their grid, and how much neighbours on it differ."""

from __future__ import annotations

from torch import Tensor

from graphsec.registry import SpecError


def total_variation(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Mean absolute difference of pixels side by side plus that of pixels one above the other.

    The anisotropic form (Rudin, Osher & Fatemi 1992, discretised; as in Inverting Gradients, §5,
    from memory), the mean over all images.

    Args:
        x: (k, rows · columns) images, row by row.
        grid: Rows and columns, 2 or more of each.

    Raises:
        ValueError: The features are not as many as the grid has pixels.
    """
    rows, columns = grid
    if x.shape[1] != rows * columns:
        raise ValueError(
            f"grid must have as many pixels as there are features: {rows} × {columns} = "
            f"{rows * columns}, found {x.shape[1]} features; features that are no pixels have none"
        )
    images = x.reshape(-1, rows, columns)
    return images.diff(dim=1).abs().mean() + images.diff(dim=2).abs().mean()


def check_grid(name: str, tv: float, grid: tuple[int, int] | None) -> None:
    """Refuse total variation without a grid, and grids without neighbours.

    Raises:
        SpecError: It is so.
    """
    if tv > 0 and grid is None:
        raise SpecError(f"attack {name!r}: tv: total variation needs grid, rows and columns")
    if grid is not None and min(grid) < 2:
        raise SpecError(f"attack {name!r}: grid must be at least 2 × 2, got {grid}")
