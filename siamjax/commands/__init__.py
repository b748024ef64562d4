"""The commands of ``python -m siamjax``; each module imports what it needs when it is called."""
