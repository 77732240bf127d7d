package tokenbroker

import (
	"strings"
	"sync"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-tokenbroker/internal/apipath"
)

// readSchema returns the fields of creds/<name> and token/<name>, which all mounts share.
var readSchema = sync.OnceValue(readFields)

// directRead returns what handles a read of creds/<name> or token/<name> without fields, and the
// data to call it with. It returns nil for any other request, which the framework routes. For such
// a read on a node that may write, the framework calls the same function with the same data; its
// routing takes a quarter of the engine's time for a cached read.
func (b *backend) directRead(req *logical.Request) (framework.OperationFunc, *framework.FieldData) {
	if req.Operation != logical.ReadOperation || len(req.Data) > 0 {
		return nil, nil
	}
	family, name, _ := strings.Cut(req.Path, "/")
	if !apipath.IsName(name) {
		return nil, nil
	}
	var read framework.OperationFunc
	switch family {
	case "creds":
		read = b.credsRead
	case "token":
		read = b.tokenRead
	default:
		return nil, nil
	}
	return read, &framework.FieldData{Raw: map[string]any{"name": name}, Schema: readSchema()}
}
