"""Person re-identification: readers of the public sets, and who is trained and tested on."""
