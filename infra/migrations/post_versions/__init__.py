"""The revisions of the phase `post`, in order: they remove what no process uses any more. See docs/upgrades.md."""
