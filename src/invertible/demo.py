"""The main job in small: two flows that fit alike, of which one loses its inverse."""

MODELS = {
    "Glow, scale sigmoid(r + 2) as everybody has it": ("glow-sigmoid", "sigmoid"),
    "Glow, scale bounded to (1/2, 1)": ("glow-half-sigmoid", "half-sigmoid"),
}
