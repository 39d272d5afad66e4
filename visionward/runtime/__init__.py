"""The runtime: preprocessing, vision tower, cross-attention, decoder, guard."""
