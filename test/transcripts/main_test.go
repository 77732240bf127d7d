// Package transcripts compares what the engine sends to each vendor of the catalogue, and reads of its answer,
// with what the vendor documents. testdata/README.md describes the format.
package transcripts
