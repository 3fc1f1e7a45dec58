package view

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kebernetes/kebernetes/store"
)

// Token is where the next page of a list begins. It is told to clients as opaque text.
type Token struct {
	APIVersion string `json:"v"`
	// Revision is the state that all pages show; -1 is the newest, whatever it is then.
	Revision int64 `json:"rv"`
	// Start is the last object told, namespace/name.
	Start string `json:"start"`
	// Left is how many objects are behind it, so that no page has to count them again; 0 where that is not known.
	Left int64 `json:"left,omitempty"`
}

const continueVersion = "meta.k8s.io/v1"

func (t Token) encode() string {
	j, _ := json.Marshal(t) // a struct of strings and numbers always encodes
	return base64.RawURLEncoding.EncodeToString(j)
}

// After returns a token, as text, that continues behind a key. left is how many objects are behind it, 0 where that is not known.
func After(k store.Key, revision, left int64) string {
	return Token{APIVersion: continueVersion, Revision: revision, Start: k.Namespace + "/" + k.Name, Left: left}.encode()
}

// Parse reads a token, and the key that it continues behind. Errors are Status errors.
func Parse(text string) (t Token, after store.Key, err error) {
	refuse := func(err error) error {
		return apierrors.NewBadRequest(fmt.Sprintf("invalid continue token: continue key is not valid: %v", err))
	}
	j, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return t, after, refuse(err)
	}
	if err := json.Unmarshal(j, &t); err != nil {
		return t, after, refuse(err)
	}
	if t.APIVersion != continueVersion {
		return t, after, refuse(fmt.Errorf("server does not recognize this encoded version %q", t.APIVersion))
	}
	if t.Revision == 0 {
		return t, after, refuse(errors.New("incorrect encoded start resourceVersion (version meta.k8s.io/v1)"))
	}
	ns, name, ok := strings.Cut(t.Start, "/")
	if !ok || name == "" {
		return t, after, refuse(errors.New("encoded start key empty (version meta.k8s.io/v1)"))
	}
	return t, store.Key{Namespace: ns, Name: name}, nil
}

// Expired is the answer to a token whose state is no longer known. It carries a token for the rest of the newest state.
func (t Token) Expired() error {
	t.Revision, t.Left = -1, 0
	err := apierrors.NewResourceExpired("The provided continue parameter is too old to display a consistent list result. " +
		"You can start a new list without the continue parameter, or use the continue token in this response to retrieve " +
		"the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that " +
		"were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.")
	err.ErrStatus.ListMeta.Continue = t.encode()
	return err
}
