package storm_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/vault/sdk/logical"
)

// A memory is storage that lists a folder without a walk through all entries below it, unlike
// logical.InmemStorage, which takes a minute to store ten thousand credentials.
type memory struct {
	mu      sync.Mutex
	entries map[string][]byte
	folders map[string]map[string]int // the entries below each member of a folder
}

func newMemory() *memory {
	return &memory{entries: map[string][]byte{}, folders: map[string]map[string]int{}}
}

// Get returns an entry; nil if there is none.
func (m *memory) Get(_ context.Context, key string) (*logical.StorageEntry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	value, found := m.entries[key]
	if !found {
		return nil, nil
	}
	return &logical.StorageEntry{Key: key, Value: slices.Clone(value)}, nil
}

// Put stores an entry.
func (m *memory) Put(_ context.Context, entry *logical.StorageEntry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, found := m.entries[entry.Key]; !found {
		m.count(entry.Key, 1)
	}
	m.entries[entry.Key] = slices.Clone(entry.Value)
	return nil
}

// Delete removes an entry, if there is one.
func (m *memory) Delete(_ context.Context, key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, found := m.entries[key]; found {
		m.count(key, -1)
		delete(m.entries, key)
	}
	return nil
}

// List returns the members of a folder. Those that are folders end in a slash.
func (m *memory) List(_ context.Context, folder string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.folders[folder])), nil
}

// count adds a number to the entries below each folder of a key.
func (m *memory) count(key string, by int) {
	for end := 0; end < len(key); {
		folder, rest := key[:end], key[end:]
		member := rest
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			member = rest[:i+1]
		}
		if m.folders[folder] == nil {
			m.folders[folder] = map[string]int{}
		}
		if m.folders[folder][member] += by; m.folders[folder][member] == 0 {
			delete(m.folders[folder], member)
		}
		end += len(member)
	}
}
