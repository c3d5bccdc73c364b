"""The images of the fleet: built, compared, and their bills of materials taken out."""
