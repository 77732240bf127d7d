package broker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical"
)

// FormatVersion is the format of what the engine writes to storage, in each entry as its
// "version". One number is for entries of all kinds, as some are parts of others. It is
// raised by a change after which an engine of before would misread an entry, or lose what
// is new in it by writing it again: that engine, put back after an upgrade, then leaves
// such an entry alone. Entries of every earlier format are read as they are (none, and 1,
// are the same), and written in this one.
const FormatVersion = 1

// StorageError is a failure of Vault's storage, not of the vendor.
type StorageError struct{ Err error }

func (e *StorageError) Error() string { return "storage: " + e.Err.Error() }
func (e *StorageError) Unwrap() error { return e.Err }

// NewerError means that an entry was written by a newer version of the engine than this
// one, which can make nothing of it and must not write over it.
type NewerError struct {
	Path    string // where an operator knows it; the storage key, unless the caller of GetEntry knows better
	Version int
}

func (e *NewerError) Error() string {
	return fmt.Sprintf("%s was written by a newer version of the engine, in storage format %d; this one knows formats up to %d, and leaves the entry as it is: go back to the newer version",
		e.Path, e.Version, FormatVersion)
}

// DamagedError means that an entry holds something else than the engine writes. Its text
// says which entry that is, and what to do; the decoder's may quote what it read.
type DamagedError struct{ Text string }

func (e *DamagedError) Error() string { return e.Text }

// TooLargeError means that storage takes no entry of the size of one. The others of the same
// name are not concerned.
type TooLargeError struct {
	Key  string
	Size int // in bytes
	Err  error
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("%s has %d bytes, which is more than storage takes in one entry: %s", e.Key, e.Size, e.Err)
}

func (e *TooLargeError) Unwrap() error { return e.Err }

// isTooLarge is whether a write failed for the size of the entry.
func isTooLarge(err error) bool {
	var large *TooLargeError
	return errors.As(err, &large)
}

// tooLarge are the texts that Vault's storage backends refuse an entry for its size with. An
// error is a text by the time that it has come from the server.
var tooLarge = []string{
	physical.ErrValueTooLarge,                       // Raft, Consul and others
	"exceeds max entry size",                        // FoundationDB, and proxies of storage
	"request is too large",                          // etcd
	"Item size has exceeded the maximum allowed",    // DynamoDB
	"entity exceeds the maximum",                    // Datastore
	"Request body too large", "RequestBodyTooLarge", // Azure
}

// A Checker is an entry that a decoder may take although the engine does not write it so.
type Checker interface{ Check() error }

// GetEntry reads an entry; nil if there is none. One that cannot be decoded, or whose Check
// fails, is an error of type *DamagedError with the text damaged. One of a newer format is an
// error of type *NewerError, and what storage would not do is one of type *StorageError.
func GetEntry[T any](ctx context.Context, s logical.Storage, key, damaged string) (*T, error) {
	stored, err := s.Get(ctx, key)
	if err != nil {
		return nil, &StorageError{err}
	}
	if stored == nil {
		return nil, nil
	}
	var format struct {
		Version int `json:"version"`
	}
	if err := stored.DecodeJSON(&format); err != nil {
		return nil, &DamagedError{damaged}
	}
	if format.Version > FormatVersion {
		return nil, &NewerError{Path: key, Version: format.Version}
	}
	entry := new(T)
	if err := stored.DecodeJSON(entry); err != nil {
		return nil, &DamagedError{damaged}
	}
	if c, ok := any(entry).(Checker); ok && c.Check() != nil {
		return nil, &DamagedError{damaged}
	}
	return entry, nil
}

// PutEntry writes an entry, which is a struct, in the format of today. Who calls it has
// read what there was, so as not to write over what a newer engine wrote; but for the
// fence, which holds nothing, and the leases of dedicated tokens, each of which has a key of
// its own. Its error is of type *StorageError, also for what cannot be encoded: that has not
// got to storage either, and whoever holds it goes on holding it.
func PutEntry(ctx context.Context, s logical.Storage, key string, entry any) error {
	raw, err := encode(entry)
	if err != nil {
		return &StorageError{err}
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return &StorageError{err}
	}
	if fields == nil {
		return &StorageError{fmt.Errorf("%s: there is nothing to write", key)}
	}
	fields["version"] = fmt.Append(nil, FormatVersion)
	if raw, err = encode(fields); err != nil {
		return &StorageError{err}
	}
	if err := s.Put(ctx, &logical.StorageEntry{Key: key, Value: raw}); err != nil {
		for _, text := range tooLarge {
			if strings.Contains(err.Error(), text) {
				err = &TooLargeError{Key: key, Size: len(raw), Err: err}
				break
			}
		}
		return &StorageError{err}
	}
	return nil
}

// encode is a value as JSON, without the escapes for HTML, which have a token of some signs
// take six times its size.
func encode(value any) ([]byte, error) {
	var raw bytes.Buffer
	encoder := json.NewEncoder(&raw)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(value)
	return raw.Bytes(), err
}
