// Package storage reads and writes the engine's entries in Vault's storage. It is the only
// package that knows their keys and their format.
//
//	config/<vendor>/<name>                          a credential
//	keypair/<name>                                  a key pair
//	role/<name>                                     a role
//	state/<name>/credential                         the grant of a credential
//	state/<name>/own, state/<name>/<SHA-256>        the token of a credential's own scope, of a narrower one
//	lease/<credential>/<role>/<series>/<expiry>-<SHA-256>   a leased token that is not shared
//
// Each entry is a JSON object with the format's version beside its own fields.
package storage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// FormatVersion is the format of the entries that this engine writes. All kinds of entries
// share one number, since some contain others. Raise it with a change after which an older
// engine would misread an entry, or lose a new field by writing the entry again. That engine
// then leaves the entry alone.
const FormatVersion = 1

// Format is embedded in each entry.
type Format struct {
	Version int `json:"version,omitempty"`
}

func (f *Format) format() *Format { return f }

// An Entry is a pointer to a struct that embeds Format.
type Entry interface {
	format() *Format

	// Check returns an error for a value that can be decoded although the engine does not
	// write it.
	Check() error
}

// Get reads an entry; it returns nil if there is none. Its errors are of type *Error if storage
// fails, *NewerFormatError if a newer engine wrote the entry, and *DamagedError if the entry
// cannot be decoded or its Check fails; fix then tells the operator what to do. The text of a
// *DamagedError does not quote the entry.
func Get[T any, P interface {
	*T
	Entry
}](ctx context.Context, s logical.Storage, key, fix string) (P, error) {
	stored, err := s.Get(ctx, key)
	if err != nil {
		return nil, &Error{err}
	}
	if stored == nil {
		return nil, nil
	}
	entry := P(new(T))
	err = stored.DecodeJSON(entry)
	version := entry.format().Version
	if err != nil { // a newer engine may have given a field another type
		var format Format
		if stored.DecodeJSON(&format) != nil {
			return nil, Damaged(key, fix)
		}
		version = format.Version
	}
	switch {
	case version > FormatVersion:
		return nil, &NewerFormatError{Path: pathOf(key), Version: version}
	case err != nil || version < 1 || entry.Check() != nil:
		return nil, Damaged(key, fix)
	}
	return entry, nil
}

// Put writes an entry in the current format. The caller must have read the entry that it
// replaces, if there is one, so that nothing of a newer engine is lost. Its error is of type
// *Error, also if the entry cannot be encoded: it is not in storage then either.
func Put(ctx context.Context, s logical.Storage, key string, entry Entry) error {
	entry.format().Version = FormatVersion
	raw, err := encode(entry)
	if err != nil {
		return &Error{err}
	}
	if err := s.Put(ctx, &logical.StorageEntry{Key: key, Value: raw}); err != nil {
		return &Error{classify(key, len(raw), err)}
	}
	return nil
}

// encode returns a value as JSON. It leaves out the escapes for HTML, by which a token of some
// characters would take six times its size.
func encode(value any) ([]byte, error) {
	var raw bytes.Buffer
	encoder := json.NewEncoder(&raw)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(value)
	return raw.Bytes(), err
}

// Exists reports whether there is an entry, without decoding it: one that cannot be decoded
// can still be deleted. Its error is of type *Error.
func Exists(ctx context.Context, s logical.Storage, key string) (bool, error) {
	stored, err := s.Get(ctx, key)
	if err != nil {
		return false, &Error{err}
	}
	return stored != nil, nil
}

// List returns the keys below a prefix, without it. Its error is of type *Error.
func List(ctx context.Context, s logical.Storage, prefix string) ([]string, error) {
	keys, err := s.List(ctx, prefix)
	if err != nil {
		return nil, &Error{err}
	}
	return keys, nil
}

// Collect returns the whole keys at any depth below a prefix. Its error is of type *Error.
func Collect(ctx context.Context, s logical.Storage, prefix string) ([]string, error) {
	view := logical.NewStorageView(s, prefix)
	keys, err := logical.CollectKeys(ctx, view)
	if err != nil {
		return nil, &Error{err}
	}
	for i, key := range keys {
		keys[i] = view.ExpandKey(key)
	}
	return keys, nil
}

// Delete removes an entry, if there is one. Its error is of type *Error.
func Delete(ctx context.Context, s logical.Storage, key string) error {
	if err := s.Delete(ctx, key); err != nil {
		return &Error{err}
	}
	return nil
}

// A probe is an entry without content.
type probe struct{ Format }

func (*probe) Check() error { return nil }

// Probe writes a small entry, to see whether storage takes writes. Its error is of type *Error.
func Probe(ctx context.Context, s logical.Storage) error { return Put(ctx, s, ProbeKey, &probe{}) }

// attempts are the pauses before each attempt of Retry.
var attempts = []time.Duration{0, 100 * time.Millisecond, 400 * time.Millisecond}

// Retry repeats a write that must not be lost because storage fails for a moment. It does not
// repeat a write that is too large. Its error is the last one of the write, or of type *Error
// if ctx ends first.
func Retry(ctx context.Context, write func() error) error {
	var err error
	for _, pause := range attempts {
		if pause > 0 {
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			return &Error{errors.Join(err, ctx.Err())}
		}
		if err = write(); err == nil || IsTooLarge(err) {
			return err
		}
	}
	return err
}
