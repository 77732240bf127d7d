package storage

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/vault/sdk/physical"
)

// An Error is a failure of Vault's storage.
type Error struct{ Err error }

func (e *Error) Error() string { return "storage: " + e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// IsError reports whether an error is a failure of storage.
func IsError(err error) bool {
	var failed *Error
	return errors.As(err, &failed)
}

// A NewerFormatError means that a newer version of the engine wrote an entry. This version
// cannot read the entry and must not replace it.
type NewerFormatError struct {
	Path    string // the path by which operators know the entry
	Version int
}

func (e *NewerFormatError) Error() string {
	return fmt.Sprintf("%s was written by a newer version of the engine, in storage format %d; this version supports formats up to %d and leaves the entry unchanged; go back to the newer version",
		e.Path, e.Version, FormatVersion)
}

// A DamagedError means that an entry has content that the engine never writes. Its text names the
// entry and the fix, and contains nothing of the content.
type DamagedError struct{ Text string }

func (e *DamagedError) Error() string { return e.Text }

// IsDamaged reports whether an entry cannot be decoded.
func IsDamaged(err error) bool {
	var damaged *DamagedError
	return errors.As(err, &damaged)
}

// A TooLargeError means that an entry exceeds the maximum size of the storage backend. Other entries
// of the same name are not affected.
type TooLargeError struct {
	Key  string
	Size int // in bytes
	Err  error
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("%s: %d bytes exceed the maximum size of a storage entry: %s", e.Key, e.Size, e.Err)
}

func (e *TooLargeError) Unwrap() error { return e.Err }

// IsTooLarge reports whether a write failed because of the size of its entry.
func IsTooLarge(err error) bool {
	var large *TooLargeError
	return errors.As(err, &large)
}

// tooLarge lists texts of the errors by which storage backends reject an entry because of its size.
// A plugin receives only the text of the server's error.
var tooLarge = []string{
	physical.ErrValueTooLarge,                       // Raft, Consul and others
	"exceeds max entry size",                        // FoundationDB, and proxies of storage
	"request is too large",                          // etcd
	"Item size has exceeded the maximum allowed",    // DynamoDB
	"entity exceeds the maximum",                    // Datastore
	"Request body too large", "RequestBodyTooLarge", // Azure
}

// classify returns err, wrapped in a *TooLargeError if the entry was too large.
func classify(key string, size int, err error) error {
	for _, text := range tooLarge {
		if strings.Contains(err.Error(), text) {
			return &TooLargeError{Key: key, Size: size, Err: err}
		}
	}
	return err
}
