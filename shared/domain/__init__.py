"""The words of Esclusa as types. Standard library only; no input or output."""
