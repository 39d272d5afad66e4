"""From an image file to tiles: decoding, frames, colour, canvas. No native library."""
