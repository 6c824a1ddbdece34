"""Frames as pictures: colours, film strips and animations."""

from convlstm.pictures.frames import animation, film_strip

__all__ = ["animation", "film_strip"]
