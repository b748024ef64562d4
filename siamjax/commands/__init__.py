"""The commands of ``python -m siamjax``; each imports what it needs only when it is called."""
