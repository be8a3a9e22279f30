"""hangarlog beside floors and peers: workloads and engines go in, a record and a page come out (`python -m bench`)."""
