"""One module a dataset kind: a bucket's events in, the dataset's rows out."""
