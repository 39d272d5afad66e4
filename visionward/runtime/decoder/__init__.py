"""The text model with the cross-attention layers put in."""
