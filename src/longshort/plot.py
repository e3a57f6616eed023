"""The loss of a run as an SVG picture. Not a plotting library: two curves, two axes."""

import math

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 400, 64, 24, 40, 48
CURVES = {"training": "#8aa4c8", "held-out": "#c8462b"}


def curves_of(metrics: list[dict]) -> dict[str, list[tuple[float, float]]]:
    """(step, value) of each curve: training loss in bits per token, held-out bits per character; finite ones."""
    curves = {
        "training": [(line["step"], line["loss"] / math.log(2)) for line in metrics if "loss" in line],
        "held-out": [(line["step"], line["heldout"]) for line in metrics if "heldout" in line],
    }
    return {name: [(x, y) for x, y in curve if math.isfinite(y)] for name, curve in curves.items()}


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers from `low` to `high`, about so many."""
    raw = (high - low) / about or 1.0
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * m for m in (1, 2, 5, 10) if size * m >= raw)
    return [round(step * i, 10) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def loss_picture(metrics: list[dict]) -> str:
    """The SVG of a run's metrics, as `read_metrics` gives them."""
    curves = curves_of(metrics)
    points = [p for curve in curves.values() for p in curve]
    if not points:
        return f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}"/>'
    steps, low = max(x for x, _ in points), min(y for _, y in points)
    high = max(y for _, y in points)
    low, high = math.floor(low * 2) / 2, math.ceil(high * 2) / 2 if high > low else low + 1

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * x / steps
        return across, TOP + (HEIGHT - TOP - BOTTOM) * (high - y) / (high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'role="img" font-family="sans-serif" font-size="12">',
        "<title>Loss over training steps</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for y in ticks(low, high):
        (x0, at), (x1, _) = place(0, y), place(steps, y)
        parts.append(f'<path d="M{x0:.1f} {at:.1f}H{x1:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{x0 - 8:.1f}" y="{at + 4:.1f}" text-anchor="end" fill="#444">{y:g}</text>')
    for x in ticks(0, steps):
        at = place(x, low)
        parts.append(f'<text x="{at[0]:.1f}" y="{at[1] + 18:.1f}" text-anchor="middle" fill="#444">{x:g}</text>')
    for i, (name, colour) in enumerate(CURVES.items()):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*p) for p in curves[name]))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        x = LEFT + 190 * i
        parts.append(f'<path d="M{x} 20h22" stroke="{colour}" stroke-width="3"/>')
        unit = "bits per token" if name == "training" else "bits per character"
        parts.append(f'<text x="{x + 28}" y="24" fill="#222">{name}, {unit}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 10}" text-anchor="middle" fill="#444">step</text></svg>')
    return "\n".join(parts)
