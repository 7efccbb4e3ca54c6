"""Gates of channels, and the way to experts and back."""
