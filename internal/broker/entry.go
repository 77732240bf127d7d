package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/hashicorp/vault/sdk/logical"
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

// GetEntry reads an entry; nil if there is none. The error of one that cannot be decoded
// is damaged, as the decoder's may quote what it read. One of a newer format is an error
// of type *NewerError, and what storage would not do is one of type *StorageError.
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
		return nil, errors.New(damaged)
	}
	if format.Version > FormatVersion {
		return nil, &NewerError{Path: key, Version: format.Version}
	}
	entry := new(T)
	if err := stored.DecodeJSON(entry); err != nil {
		return nil, errors.New(damaged)
	}
	return entry, nil
}

// PutEntry writes an entry, which is a struct, in the format of today. Who calls it has
// read what there was, so as not to write over what a newer engine wrote; but for the
// fence, which holds nothing, and the leases of dedicated tokens, each of which has a key of
// its own. Its error is of type *StorageError, also for what cannot be encoded: that has not
// got to storage either, and whoever holds it goes on holding it.
func PutEntry(ctx context.Context, s logical.Storage, key string, entry any) error {
	raw, err := json.Marshal(entry)
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
	stored, err := logical.StorageEntryJSON(key, fields)
	if err != nil {
		return &StorageError{err}
	}
	if err := s.Put(ctx, stored); err != nil {
		return &StorageError{err}
	}
	return nil
}
