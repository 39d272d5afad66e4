"""From an image file to tiles: decoding, frames, colours, canvas. Loads no native library."""
