package credential

import (
	"errors"
	"fmt"

	"vault-plugin-secrets-tokenbroker/provider"
)

// A VerifyError means that the vendor did not accept a credential or its new key.
type VerifyError struct {
	Err     error
	Outcome string // what the failure leaves in place

	// InOutage is Outcome with what an operator can do while the vendor is unavailable.
	InOutage string
}

func (e *VerifyError) Error() string { return e.Err.Error() }
func (e *VerifyError) Unwrap() error { return e.Err }

// A NotFoundError means that the target of a patch does not exist.
type NotFoundError struct{ Path, What string }

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("no %s found at %s to patch; create it first", e.What, e.Path)
}

// A ConflictError means that Vault checked a request's policy for create although the target now
// exists, or for update although it no longer exists. Another request has changed it in between.
type ConflictError struct {
	Path    string
	Created bool // the target was created; false: it was deleted
}

func (e *ConflictError) Error() string {
	if e.Created {
		return e.Path + " was created by another request, and the policy check of this one was for create; send it again to update"
	}
	return e.Path + " was deleted by another request, and the policy check of this one was for update; send it again to create"
}

// CheckConflict returns a *ConflictError if the operation does not match whether the target exists.
// Vault checks the policy for create or update before the request holds the lock.
func CheckConflict(op Operation, path string, exists bool) error {
	switch {
	case op == Create && exists:
		return &ConflictError{Path: path, Created: true}
	case op == Update && !exists:
		return &ConflictError{Path: path}
	}
	return nil
}

// isUnsent reports whether a request was not sent, because its turn did not come in time.
func isUnsent(err error) bool {
	var e *provider.Error
	return errors.As(err, &e) && e.NotSent
}
