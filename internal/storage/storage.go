// Package storage reads and writes the engine's entries in Vault's storage. It is the only
// package that knows their keys and their format.
//
//	config/<vendor>/<name>      a credential
//	vendor/<vendor>             a definition of a vendor that an operator wrote
//	keypair/<name>              a key pair
//	client/<name>               an OAuth client
//	consent/<name>              the latest attempt to get a consent to a credential
//	role/<name>                 a role
//	variant/<name>/<SHA-256>    a credential for one narrowing; the first half of the SHA-256 is of the narrowing
//	state/<name>/grant          the grant of a credential
//	state/<name>/own            the token of a credential's own scope
//	state/<name>/<SHA-256>      the token of a narrower scope; the SHA-256 is of the scope
//	lease/<credential>/<role>/<series>/<expiry>-<SHA-256>
//	                            a dedicated token; the SHA-256 is of the token
//	vendor-in-use/<vendor>      an empty entry: the vendor may have credentials
//	probe                       an empty entry, written to test storage
//
// Each entry is a JSON object that has the version of the format among its fields.
package storage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// FormatVersion is the version of the storage format. All kinds of entries share it, as some contain
// others. Raise it with a change that makes an older engine misread an entry, or drop a new field
// when it rewrites one. An older engine refuses to read or replace entries of a newer version.
const FormatVersion = 1

// Format holds the format version. Each entry type embeds it.
type Format struct {
	Version int `json:"version,omitempty"`
}

func (f *Format) embeddedFormat() *Format { return f }

// An Entry is a pointer to a struct that embeds Format.
type Entry interface {
	embeddedFormat() *Format

	// Check returns an error for a value that the engine never writes. Get calls it.
	Check() error
}

// Get reads an entry. It returns nil if there is none. Its error is an *Error if storage fails, a
// *NewerFormatError if a newer engine wrote the entry, and a *DamagedError if the entry cannot be
// decoded or its Check fails. fix is part of that error's text and tells operators how to repair
// the entry.
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
	version := entry.embeddedFormat().Version
	if err != nil { // a newer format may have changed the type of a field
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

// Put writes an entry in the current format. Callers must first Get the entry that it replaces, so
// that Put never overwrites the entry of a newer engine. Its error, including an encoding error, is
// of type *Error.
func Put(ctx context.Context, s logical.Storage, key string, entry Entry) error {
	entry.embeddedFormat().Version = FormatVersion
	raw, err := encode(entry)
	if err != nil {
		return &Error{err}
	}
	if err := s.Put(ctx, &logical.StorageEntry{Key: key, Value: raw}); err != nil {
		return &Error{classify(key, len(raw), err)}
	}
	return nil
}

// encode returns a value as JSON. It does not escape HTML, which could make a token six times as
// large.
func encode(value any) ([]byte, error) {
	var raw bytes.Buffer
	encoder := json.NewEncoder(&raw)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(value)
	return raw.Bytes(), err
}

// Exists reports whether there is an entry. It does not decode it, so that a damaged entry can still
// be deleted. Its error is of type *Error.
func Exists(ctx context.Context, s logical.Storage, key string) (bool, error) {
	stored, err := s.Get(ctx, key)
	if err != nil {
		return false, &Error{err}
	}
	return stored != nil, nil
}

// List returns the keys directly below a prefix, without the prefix. Its error is of type *Error.
func List(ctx context.Context, s logical.Storage, prefix string) ([]string, error) {
	keys, err := s.List(ctx, prefix)
	if err != nil {
		return nil, &Error{err}
	}
	return keys, nil
}

// Folders returns the names of the folders directly below a prefix. Its error is of type *Error.
func Folders(ctx context.Context, s logical.Storage, prefix string) ([]string, error) {
	keys, err := List(ctx, s, prefix)
	if err != nil {
		return nil, err
	}
	var folders []string
	for _, key := range keys {
		if folder, isFolder := strings.CutSuffix(key, "/"); isFolder {
			folders = append(folders, folder)
		}
	}
	return folders, nil
}

// Collect returns the full keys of all entries below a prefix, at any depth. Its error is of type
// *Error.
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

// An emptyEntry says something by being there.
type emptyEntry struct{ Format }

func (*emptyEntry) Check() error { return nil }

// PutEmpty stores an empty entry. Its error is of type *Error.
func PutEmpty(ctx context.Context, s logical.Storage, key string) error {
	return Put(ctx, s, key, &emptyEntry{})
}

// Probe writes an entry to check whether storage accepts writes. Its error is of type *Error.
func Probe(ctx context.Context, s logical.Storage) error { return PutEmpty(ctx, s, ProbeKey) }

// attempts holds the pause before each attempt of Retry.
var attempts = []time.Duration{0, 100 * time.Millisecond, 400 * time.Millisecond}

// Retry calls write up to three times until it succeeds. It does not retry a write that is too
// large. It returns the last error of write, or an *Error if ctx is done first.
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
