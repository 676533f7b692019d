"""Colors and resolution of the figures."""

DPI, BLUE, ORANGE, GREEN, GREY = 110, "#2a6fbb", "#d9772b", "#3a9a5b", "#999999"
