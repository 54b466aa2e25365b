"""Reading the containers of raw logs (Parquet, Avro, JSON lines, JSON array, delimited text) into `RawTable`s."""
