// Package admission holds the steps that look at a write after it was authorised and decoded and before it is stored:
// one ordered list, each step one file. Only apiserver runs it; daemon builds the list.
package admission

import (
	"context"

	"github.com/kebernetes/kebernetes/auth"
	"github.com/kebernetes/kebernetes/kinds"
)

// Operation is what a write does.
type Operation string

// The operations, as webhooks and policies spell them.
const (
	Create  Operation = "CREATE"
	Update  Operation = "UPDATE"
	Delete  Operation = "DELETE"
	Connect Operation = "CONNECT"
)

// Request is a write on its way to the store.
type Request struct {
	Operation   Operation
	Kind        *kinds.Kind
	Version     string // the version that the client speaks
	Subresource string
	Namespace   string
	Name        string
	// Object is the new state in the storage version's type; Mutate may change it. nil on Delete. For a subresource with a body of its
	// own (binding, eviction, token, the options of a connect) it is that body.
	Object kinds.Object
	// Old is the state before, nil on Create. Never changed.
	Old    kinds.Object
	User   *auth.User
	DryRun bool
	// Warn sends a warning to the client. Never nil.
	Warn func(text string)
}

// Step is one concern. A step looks only at what it is for and returns nil for everything else. Errors are API Status errors
// (apierrors.NewForbidden and so on), with upstream's texts.
type Step struct {
	// Name is upstream's plugin name where there is one: "NamespaceLifecycle".
	Name string
	// Mutate may change req.Object; it runs before defaulting is repeated and before validation. May be nil.
	Mutate func(ctx context.Context, req *Request) error
	// Validate sees the final, valid object and changes nothing. May be nil.
	Validate func(ctx context.Context, req *Request) error
}

// Chain is the ordered list.
type Chain []Step

// Mutate runs every step's Mutate in order and stops at the first error.
func (c Chain) Mutate(ctx context.Context, req *Request) error {
	for _, s := range c {
		if s.Mutate == nil {
			continue
		}
		if err := s.Mutate(ctx, req); err != nil {
			return err
		}
	}
	return nil
}

// Validate runs every step's Validate in order and stops at the first error.
func (c Chain) Validate(ctx context.Context, req *Request) error {
	for _, s := range c {
		if s.Validate == nil {
			continue
		}
		if err := s.Validate(ctx, req); err != nil {
			return err
		}
	}
	return nil
}
