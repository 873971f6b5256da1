"""Export of flow records: to a file of JSON lines, and to an OpenTelemetry collector. Used only with `--flow-export-…`."""
