"""What becomes of events, as pure functions: histograms, rollups, periods, the shapes of reports. No I/O, no clock."""
