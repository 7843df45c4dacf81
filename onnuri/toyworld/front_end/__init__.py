"""This package is the toy world's text front end: spelling, questions out of its reach, notices of
what is unknown."""
