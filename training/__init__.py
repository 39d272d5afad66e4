"""Build-time code: how the demo guard that ships with visionward is made. Not part of the installed package."""
