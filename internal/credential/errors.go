package credential

import "fmt"

// A VerifyError is why a credential was not stored, or got no other key.
type VerifyError struct {
	Err     error
	Outcome string // what is the case instead

	// InOutage is the same, and what an operator can do while the vendor is unavailable.
	InOutage string
}

func (e *VerifyError) Error() string { return e.Err.Error() }
func (e *VerifyError) Unwrap() error { return e.Err }

// A NotFoundError means that what is to be patched does not exist.
type NotFoundError struct{ Path, What string }

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("%s: there is no such %s to patch", e.Path, e.What)
}

// A ConflictError means that what a request was checked for creating exists by now, or that what
// it was checked for changing does not.
type ConflictError struct {
	Path    string
	Created bool
}

func (e *ConflictError) Error() string {
	if e.Created {
		return e.Path + " was created meanwhile, and this request was only checked for creating it; send it again to change what is stored"
	}
	return e.Path + " was deleted meanwhile, and this request was only checked for changing it; send it again to create it"
}

// CheckConflict returns a *ConflictError for an operation that does not fit what exists. Vault has
// checked the policy for creating or for changing before the request got its turn.
func CheckConflict(op Operation, path string, exists bool) error {
	switch {
	case op == Create && exists:
		return &ConflictError{Path: path, Created: true}
	case op == Update && !exists:
		return &ConflictError{Path: path}
	}
	return nil
}
