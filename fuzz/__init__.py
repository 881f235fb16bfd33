"""A fuzzer of the datapath: seeded packets through real programs, judged by a model of its own."""
