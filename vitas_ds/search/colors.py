"""Colors of the figures: those of the report (``reports/templates/page.css``), on white."""

BLUE, ORANGE, GREEN, RED = "#2a78d6", "#e0791b", "#188a5b", "#c2394b"
PALE, DARK = "#a3c4ea", "#0c2f63"  # first and last generations
