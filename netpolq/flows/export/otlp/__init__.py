"""Export to an OpenTelemetry collector: OTLP logs over HTTP, in protobuf. Imported only with `--flow-export-otlp`."""
