package tokenbroker

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-secure-stdlib/parseutil"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// maxDuration bounds what an operator may set, so that no arithmetic overflows.
const maxDuration = 10 * 365 * 24 * time.Hour

// HandleRequest looks at what was sent before the framework does: that ignores
// fields it does not know, and quotes values in its errors, secrets included.
func (b *backend) HandleRequest(ctx context.Context, req *logical.Request) (*logical.Response, error) {
	b.noteMount(req)
	switch req.Operation {
	case logical.CreateOperation, logical.UpdateOperation, logical.PatchOperation, logical.ReadOperation:
		if len(req.Data) == 0 {
			break
		}
		if path := b.Route(req.Path); path != nil {
			if err := checkInput(path.Fields, req.Data); err != nil {
				return logical.ErrorResponse(err.Error()), nil
			}
		}
	}
	return b.Backend.HandleRequest(ctx, req)
}

// HandleExistenceCheck leaves the input to HandleRequest, which answers bad input
// with a 400: an error here becomes a 500, as Vault cannot tell its kind once it
// has come across from the plugin.
func (b *backend) HandleExistenceCheck(ctx context.Context, req *logical.Request) (bool, bool, error) {
	bare := *req
	bare.Data = nil
	return b.Backend.HandleExistenceCheck(ctx, &bare)
}

func checkInput(fields map[string]*framework.FieldSchema, input map[string]any) error {
	for _, name := range sortedKeys(input) {
		schema, known := fields[name]
		if !known {
			return fmt.Errorf("%s: is no field of this path, which has %s", name, strings.Join(sortedKeys(fields), ", "))
		}
		switch value := input[name]; schema.Type {
		case framework.TypeString:
			if _, ok := value.(string); !ok && value != nil && isSecret(schema) {
				return fmt.Errorf("%s: must be a string", name)
			}
		case framework.TypeBool:
			if value == "" {
				return fmt.Errorf("%s: must be true or false", name)
			}
		case framework.TypeKVPairs:
			if value == "" {
				input[name] = nil // the framework refuses an empty text, and merge takes either for clearing
			}
			if err := checkPairs(name, value); err != nil {
				return err
			}
		case framework.TypeInt:
			if err := checkInt(name, value); err != nil {
				return err
			}
		case framework.TypeDurationSecond:
			if err := checkDuration(name, value); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkInt refuses numbers that would come out of storage as others, or not at all. What
// is no number, the framework refuses.
func checkInt(name string, value any) error {
	n, isNumber := value.(float64)
	if text, ok := value.(string); ok {
		i, err := strconv.ParseInt(text, 0, 64)
		n, isNumber = float64(i), err == nil
	}
	if isNumber && (n != math.Trunc(n) || math.Abs(n) > math.MaxInt32) {
		return fmt.Errorf("%s: must be a whole number, of %d at the most", name, math.MaxInt32)
	}
	return nil
}

func checkDuration(name string, value any) error {
	if n, ok := value.(float64); ok && n != float64(int64(n)) {
		return fmt.Errorf("%s: must be a whole number of seconds", name)
	}
	d, err := parseutil.ParseDurationSecond(value)
	switch {
	case err != nil:
		return fmt.Errorf("%s: is no duration; give seconds, or a number with a unit such as 30s, 24h or 7d, ten years at the most", name)
	case d < 0:
		return fmt.Errorf("%s: must not be negative", name)
	case d > maxDuration:
		return fmt.Errorf("%s: must not be over ten years", name)
	case d%time.Second != 0:
		return fmt.Errorf("%s: must be a whole number of seconds", name)
	}
	return nil
}

// isSecret is whether a field must not come out again.
func isSecret(schema *framework.FieldSchema) bool {
	return schema.DisplayAttrs != nil && schema.DisplayAttrs.Sensitive
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
