package tokenbroker

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
)

// Check is for storage.Get.
func (c *configEntry) Check() error {
	if c.Generation == "" || c.Fields == nil {
		return errors.New("a credential without a generation, or without fields")
	}
	if c.Verified == nil {
		return nil
	}
	return c.Verified.Check()
}

// hasFieldsOf is whether an entry has no other fields than a provider's, each of its type.
// What reads them takes that for granted.
func (c *configEntry) hasFieldsOf(providerName string) bool {
	types := fieldTypes()[providerName]
	for field, value := range c.Fields {
		if fieldType, known := types[field]; !known || !isStoredAs(fieldType, value) {
			return false
		}
	}
	return true
}

// fieldTypes are those of the fields of each provider.
var fieldTypes = sync.OnceValue(func() map[string]map[string]framework.FieldType {
	all := map[string]map[string]framework.FieldType{}
	for _, p := range providers {
		types := map[string]framework.FieldType{}
		for field, schema := range credentialFields(p) {
			types[field] = schema.Type
		}
		all[p.Name()] = types
	}
	return all
})

// isStoredAs is whether a value is what storage has of a field of a type: numbers are
// json.Number, as the SDK decodes them.
func isStoredAs(fieldType framework.FieldType, value any) bool {
	isText := func(value any) bool {
		_, is := value.(string)
		return is
	}
	switch value := value.(type) {
	case string:
		return fieldType == framework.TypeString
	case bool:
		return fieldType == framework.TypeBool
	case json.Number:
		number, err := value.Int64()
		isDuration := fieldType == framework.TypeDurationSecond && number >= 0 && number <= int64(maxDuration/time.Second)
		return err == nil && (isDuration || fieldType == framework.TypeInt)
	case []any:
		return fieldType == framework.TypeCommaStringSlice && !slices.ContainsFunc(value, func(element any) bool { return !isText(element) })
	case map[string]any:
		return fieldType == framework.TypeKVPairs && !slices.ContainsFunc(slices.Collect(maps.Values(value)), func(element any) bool { return !isText(element) })
	}
	return false
}
