"""Catalogues of pictures: readers of tables, folders and sets, and who is trained and tested on."""
